package daemonset

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
	"bramble.dev/server/controllers/owned"
	"bramble.dev/server/controllers/pods"
	"bramble.dev/server/controllers/revisions"
)

var kind = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

// A failed pod is deleted at once, the next on its node after a second, and so
// on up to a quarter of an hour.
const (
	firstFailure = time.Second
	lastFailure  = 15 * time.Minute
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client     kubernetes.Interface
	Events     record.EventRecorder
	DaemonSets *cache.Cache[appsv1.DaemonSet]
	Pods       *cache.Cache[corev1.Pod]
	Nodes      *cache.Cache[corev1.Node]
	Revisions  *cache.Cache[appsv1.ControllerRevision]
	Log        *slog.Logger
}

type controller struct {
	Inputs
	loop    *loop.Loop
	writes  loop.Writes
	history revisions.History
	control pods.Control
	// failures is bounded: what has not failed for half an hour is forgotten.
	failures *flowcontrol.Backoff
}

// New makes the controller of DaemonSets.
func New(in Inputs) *loop.Loop {
	c := &controller{
		Inputs: in, failures: flowcontrol.NewBackOff(firstFailure, lastFailure),
		control: pods.Control{Client: in.Client, Events: in.Events},
	}
	c.history = revisions.History{Client: in.Client, Revisions: in.Revisions, Writes: &c.writes}
	c.loop = loop.New("daemonset-controller", in.Log, c.reconcile)
	loop.Watch(c.loop, in.DaemonSets, loop.Self)
	loop.Watch(c.loop, in.Pods, c.keysOfPod)
	loop.Watch(c.loop, in.Nodes, c.keysOfNode)
	loop.Watch(c.loop, in.Revisions, loop.Owner[appsv1.ControllerRevision](kind.Kind))
	return c.loop
}

// keysOfPod finds the DaemonSet of a pod and, for one without, those that might
// adopt it.
func (c *controller) keysOfPod(change cache.Change[corev1.Pod]) []loop.Key {
	adopters := loop.Adopters(change, c.DaemonSets, func(ds *appsv1.DaemonSet) *metav1.LabelSelector { return ds.Spec.Selector })
	return append(loop.Owner[corev1.Pod](kind.Kind)(change), adopters...)
}

// keysOfNode wakes all DaemonSets when a node comes, goes, or changes in what
// decides who may run on it. A heartbeat does not.
func (c *controller) keysOfNode(change cache.Change[corev1.Node]) []loop.Key {
	if change.Old != nil && change.New != nil &&
		equality.Semantic.DeepEqual(change.Old.Labels, change.New.Labels) &&
		equality.Semantic.DeepEqual(change.Old.Spec.Taints, change.New.Spec.Taints) {
		return nil
	}
	return loop.KeysOf(c.DaemonSets.List("", nil))
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	if err := c.writes.Settle(ctx, key); err != nil {
		return err
	}
	ds, ok := c.DaemonSets.Get(key.Namespace, key.Name)
	if !ok {
		return nil
	}
	if equality.Semantic.DeepEqual(ds.Spec.Selector, &metav1.LabelSelector{}) {
		c.Events.Eventf(ds, corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return nil
	}
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil {
		return loop.Permanent(fmt.Errorf("selector: %w", err))
	}
	if ds.DeletionTimestamp != nil {
		return nil // its history may be gone already, and without it nothing can be told
	}
	fresh := func(ctx context.Context) (metav1.Object, error) {
		return c.Client.AppsV1().DaemonSets(ds.Namespace).Get(ctx, ds.Name, metav1.GetOptions{})
	}
	history, err := c.history.Claim(ctx, revisions.Owner{Object: ds, Kind: kind, Selector: selector, Fresh: fresh})
	if err != nil {
		return err
	}
	mine, err := owned.Claims[corev1.Pod]{
		Owner: ds, Kind: kind, Selector: selector, Fresh: fresh,
		In: c.Pods, Patch: c.control.Patch, Writes: &c.writes,
	}.Claim(ctx)
	if err != nil {
		return err
	}
	o := observed{ds: ds, pods: mine, nodes: c.Nodes.List("", nil), history: history, now: time.Now(), patience: c.patience(ds)}
	if err := c.establish(ctx, key, &o); err != nil {
		return err
	}
	return c.apply(ctx, key, ds, decide(o))
}

// establish makes the present template the newest revision.
func (c *controller) establish(ctx context.Context, key loop.Key, o *observed) error {
	wanted, err := revisions.New(o.ds, kind, &o.ds.Spec.Template)
	if err != nil {
		return loop.Permanent(err)
	}
	choice := revisions.Choose(o.history, wanted)
	hash := func(collisions *int32) string { return pods.TemplateHash(&o.ds.Spec.Template, collisions) }
	current, collisions, err := c.history.Establish(ctx, key, choice, wanted, hash, o.ds.Status.CollisionCount)
	if err != nil {
		return err
	}
	o.current, o.collisions, o.duplicates = current, collisions, choice.Duplicates
	return nil
}

// patience says how long the next failed pod of a node is left as it is.
func (c *controller) patience(ds *appsv1.DaemonSet) func(node string) time.Duration {
	return func(node string) time.Duration {
		if key := failureKey(ds, node); c.failures.IsInBackOffSinceUpdate(key, c.failures.Clock.Now()) {
			return c.failures.Get(key)
		}
		return 0
	}
}

func failureKey(ds *appsv1.DaemonSet, node string) string {
	return fmt.Sprintf("%s/%d/%s", ds.UID, ds.Status.ObservedGeneration, node)
}
