package deployment

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
	"bramble.dev/server/controllers/owned"
	"bramble.dev/server/controllers/pods"
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client      kubernetes.Interface
	Events      record.EventRecorder
	Deployments *cache.Cache[appsv1.Deployment]
	ReplicaSets *cache.Cache[appsv1.ReplicaSet]
	Pods        *cache.Cache[corev1.Pod]
	Log         *slog.Logger
}

type controller struct {
	Inputs
	loop   *loop.Loop
	writes loop.Writes
}

// New makes the controller of Deployments.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in}
	c.loop = loop.New("deployment-controller", in.Log, c.reconcile)
	loop.Watch(c.loop, in.Deployments, loop.Self)
	loop.Watch(c.loop, in.ReplicaSets, c.keysOfSet)
	loop.Watch(c.loop, in.Pods, c.keysOfPod)
	return c.loop
}

func (c *controller) keysOfSet(change cache.Change[appsv1.ReplicaSet]) []loop.Key {
	adopters := loop.Adopters(change, c.Deployments, func(d *appsv1.Deployment) *metav1.LabelSelector { return d.Spec.Selector })
	return append(loop.Owner[appsv1.ReplicaSet](kind.Kind)(change), adopters...)
}

// keysOfPod wakes a Deployment that recreates when a pod has ended or is gone:
// nothing else of it tells.
func (c *controller) keysOfPod(change cache.Change[corev1.Pod]) []loop.Key {
	if change.New != nil && !pods.IsFinished(change.New) {
		return nil
	}
	pod := change.Object()
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return nil
	}
	rs, ok := c.ReplicaSets.Get(pod.Namespace, ref.Name)
	if !ok {
		return nil
	}
	ref = metav1.GetControllerOfNoCopy(rs)
	if ref == nil || ref.Kind != kind.Kind {
		return nil
	}
	d, ok := c.Deployments.Get(rs.Namespace, ref.Name)
	if !ok || isRolling(d) {
		return nil
	}
	return []loop.Key{loop.KeyOf(d)}
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	if err := c.writes.Settle(ctx, key); err != nil {
		return err
	}
	d, ok := c.Deployments.Get(key.Namespace, key.Name)
	if !ok {
		return nil
	}
	if equality.Semantic.DeepEqual(d.Spec.Selector, &metav1.LabelSelector{}) {
		return c.refuse(ctx, d)
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return loop.Permanent(fmt.Errorf("selector: %w", err))
	}
	sets, err := c.claim(ctx, d, selector)
	if err != nil {
		return err
	}
	if to, ok := rollbackTo(d); ok && !d.Spec.Paused && d.DeletionTimestamp == nil {
		return c.rollBack(ctx, key, d, sets, to)
	}
	p := decide(observed{
		deployment: d, sets: sets, now: time.Now(),
		oldPods: func(current *appsv1.ReplicaSet) bool { return c.oldPodsRun(sets, current) },
	})
	return c.apply(ctx, key, d, p)
}

// refuse leaves a Deployment alone that would take every pod there is.
func (c *controller) refuse(ctx context.Context, d *appsv1.Deployment) error {
	c.Events.Eventf(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
	if d.Status.ObservedGeneration >= d.Generation {
		return nil
	}
	d = d.DeepCopy()
	d.Status.ObservedGeneration = d.Generation
	_, err := c.Client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{})
	return err
}

func (c *controller) claim(ctx context.Context, d *appsv1.Deployment, selector labels.Selector) ([]*appsv1.ReplicaSet, error) {
	return owned.Claims[appsv1.ReplicaSet]{
		Owner: d, Kind: kind, Selector: selector,
		Fresh: func(ctx context.Context) (metav1.Object, error) {
			return c.Client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
		},
		Patch: func(ctx context.Context, rs *appsv1.ReplicaSet, patch []byte) (*appsv1.ReplicaSet, error) {
			return c.Client.AppsV1().ReplicaSets(rs.Namespace).Patch(ctx, rs.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		},
		In: c.ReplicaSets, Writes: &c.writes,
	}.Claim(ctx)
}

func (c *controller) oldPodsRun(sets []*appsv1.ReplicaSet, current *appsv1.ReplicaSet) bool {
	for _, rs := range sets {
		if current != nil && rs.UID == current.UID {
			continue
		}
		for _, pod := range c.Pods.ByOwner(rs.UID) {
			if !pods.IsFinished(pod) {
				return true
			}
		}
	}
	return false
}
