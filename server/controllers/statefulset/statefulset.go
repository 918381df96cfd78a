package statefulset

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
	"bramble.dev/server/controllers/owned"
	"bramble.dev/server/controllers/pods"
	"bramble.dev/server/controllers/revisions"
)

var (
	kind    = appsv1.SchemeGroupVersion.WithKind("StatefulSet")
	podKind = corev1.SchemeGroupVersion.WithKind("Pod")
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client       kubernetes.Interface
	Events       record.EventRecorder
	StatefulSets *cache.Cache[appsv1.StatefulSet]
	Pods         *cache.Cache[corev1.Pod]
	Claims       *cache.Cache[corev1.PersistentVolumeClaim]
	Revisions    *cache.Cache[appsv1.ControllerRevision]
	Log          *slog.Logger
}

type controller struct {
	Inputs
	loop    *loop.Loop
	writes  loop.Writes
	history revisions.History
}

// New makes the controller of StatefulSets.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in}
	c.history = revisions.History{Client: in.Client, Revisions: in.Revisions, Writes: &c.writes}
	c.loop = loop.New("statefulset-controller", in.Log, c.reconcile)
	loop.Watch(c.loop, in.StatefulSets, loop.Self)
	loop.Watch(c.loop, in.Pods, c.keysOfPod)
	loop.Watch(c.loop, in.Claims, c.keysOfClaim)
	loop.Watch(c.loop, in.Revisions, loop.Owner[appsv1.ControllerRevision](kind.Kind))
	return c.loop
}

// keysOfPod finds a pod's set, the sets that might adopt one without, and the
// set whose pod's name a stranger had.
func (c *controller) keysOfPod(change cache.Change[corev1.Pod]) []loop.Key {
	keys := loop.Owner[corev1.Pod](kind.Kind)(change)
	if gone := change.Old; change.New == nil && metav1.GetControllerOfNoCopy(gone) == nil {
		if parent, _ := identity(gone.Name); parent != "" {
			if _, ok := c.StatefulSets.Get(gone.Namespace, parent); ok {
				keys = append(keys, loop.Key{Namespace: gone.Namespace, Name: parent})
			}
		}
	}
	adopters := loop.Adopters(change, c.StatefulSets, func(set *appsv1.StatefulSet) *metav1.LabelSelector { return set.Spec.Selector })
	return append(keys, adopters...)
}

// keysOfClaim wakes the set of a claim that is gone: a pod may wait for that,
// or for a new one.
func (c *controller) keysOfClaim(change cache.Change[corev1.PersistentVolumeClaim]) []loop.Key {
	if change.New != nil {
		return nil
	}
	var keys []loop.Key
	parent, _ := identity(change.Old.Name)
	for _, set := range c.StatefulSets.List(change.Old.Namespace, nil) {
		if len(set.Spec.VolumeClaimTemplates) > 0 && strings.HasSuffix(parent, "-"+set.Name) {
			keys = append(keys, loop.KeyOf(set))
		}
	}
	return keys
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	if err := c.writes.Settle(ctx, key); err != nil {
		return err
	}
	set, ok := c.StatefulSets.Get(key.Namespace, key.Name)
	if !ok {
		return nil
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return loop.Permanent(fmt.Errorf("selector: %w", err))
	}
	fresh := func(ctx context.Context) (metav1.Object, error) {
		return c.Client.AppsV1().StatefulSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
	}
	history, err := c.history.Claim(ctx, revisions.Owner{Object: set, Kind: kind, Selector: selector, Fresh: fresh})
	if err != nil {
		return err
	}
	mine, err := owned.Claims[corev1.Pod]{
		Owner: set, Kind: kind, Selector: selector, Fresh: fresh,
		Adoptable: func(pod *corev1.Pod) bool {
			parent, _ := identity(pod.Name)
			return parent == set.Name
		},
		In: c.Pods, Patch: pods.Control{Client: c.Client}.Patch, Writes: &c.writes,
	}.Claim(ctx)
	if err != nil {
		return err
	}
	o, ok, err := c.observe(ctx, key, set, mine, history)
	if err != nil || !ok {
		return err
	}
	return c.apply(ctx, key, set, decide(o))
}

// observe finds the revisions that pods are made from. It is not ok if the set
// is about to go and there is none any more.
func (c *controller) observe(ctx context.Context, key loop.Key, set *appsv1.StatefulSet, mine []*corev1.Pod, history []*appsv1.ControllerRevision) (o observed, ok bool, err error) {
	o = observed{
		set: set, pods: mine, history: history, now: time.Now(),
		claim: func(name string) *corev1.PersistentVolumeClaim {
			claim, _ := c.Claims.Get(set.Namespace, name)
			return claim
		},
	}
	wanted, err := revisions.New(set, kind, &set.Spec.Template)
	if err != nil {
		return o, false, loop.Permanent(err)
	}
	choice := revisions.Choose(history, wanted)
	if set.DeletionTimestamp != nil && choice.Current == nil {
		return o, false, nil // its history goes with it
	}
	collisions := new(int32)
	if set.Status.CollisionCount != nil {
		*collisions = *set.Status.CollisionCount
	}
	update, collisions, err := c.history.Establish(ctx, key, choice, wanted, func(n *int32) string { return revisions.DataHash(wanted, *n) }, collisions)
	if err != nil {
		return o, false, err
	}
	o.collisions = *collisions
	o.update = revision{name: update.Name, template: &set.Spec.Template}
	o.current, err = currentOf(set, history, o.update)
	return o, err == nil, err
}

// currentOf is the revision that pods below a partition are made from.
func currentOf(set *appsv1.StatefulSet, history []*appsv1.ControllerRevision, update revision) (revision, error) {
	for _, r := range history {
		if r.Name == set.Status.CurrentRevision && r.Name != update.name {
			template, err := revisions.Template(r)
			return revision{name: r.Name, template: template}, err
		}
	}
	return update, nil
}
