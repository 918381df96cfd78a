package replicaset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
	"bramble.dev/server/controllers/owned"
	"bramble.dev/server/controllers/pods"
)

// Kind tells the engine how to read and write one of the kinds that it serves.
type Kind[T any] struct {
	schema.GroupVersionKind
	// NoTerminating is true of a kind whose status does not count pods that are going.
	NoTerminating bool
	// View shows an object as a ReplicaSet; the engine does not change it.
	View func(*T) *appsv1.ReplicaSet
	// Fresh reads it from the API, and Status writes its status.
	Fresh  func(ctx context.Context, key loop.Key) (metav1.Object, error)
	Status func(ctx context.Context, object *T, status appsv1.ReplicaSetStatus) (resourceVersion string, err error)
}

// Engine runs pods for the objects of one kind.
type Engine[T any] struct {
	Kind    Kind[T]
	Sets    *cache.Cache[T]
	Pods    *cache.Cache[corev1.Pod]
	Control pods.Control
	Log     *slog.Logger

	loop   *loop.Loop
	writes loop.Writes
}

// Loop gives the engine's loop under a name.
func (e *Engine[T]) Loop(name string) *loop.Loop {
	e.loop = loop.New(name, e.Log, e.reconcile)
	loop.Watch(e.loop, e.Sets, loop.Self)
	loop.Watch(e.loop, e.Pods, e.keysOfPod)
	return e.loop
}

// keysOfPod finds the controllers of a pod and, for one without, those that
// might adopt it.
func (e *Engine[T]) keysOfPod(change cache.Change[corev1.Pod]) []loop.Key {
	adopters := loop.Adopters(change, e.Sets, func(object *T) *metav1.LabelSelector { return e.Kind.View(object).Spec.Selector })
	return append(loop.Owner[corev1.Pod](e.Kind.Kind)(change), adopters...)
}

func (e *Engine[T]) reconcile(ctx context.Context, key loop.Key) error {
	if err := e.writes.Settle(ctx, key); err != nil {
		return err
	}
	object, ok := e.Sets.Get(key.Namespace, key.Name)
	if !ok {
		return nil
	}
	set := e.Kind.View(object)
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return loop.Permanent(fmt.Errorf("selector: %w", err))
	}
	mine := e.Pods.ByOwner(set.UID)
	candidates := pods.Filter(append(mine, e.Pods.Orphans(key.Namespace)...), pods.IsActive)
	active, err := e.claim(ctx, key, set, selector, candidates)
	if err != nil {
		return err
	}
	terminating := len(pods.Filter(mine, func(p *corev1.Pod) bool {
		return pods.IsTerminating(p) && selector.Matches(labels.Set(p.Labels))
	}))

	now := time.Now()
	var failure error
	if set.DeletionTimestamp == nil {
		failure = e.apply(ctx, key, object, decide(*set.Spec.Replicas, active, e.related(set), now))
	}
	wanted := status(set, active, terminating, failure, now)
	if e.Kind.NoTerminating {
		wanted.TerminatingReplicas = nil
	}
	if err := e.report(ctx, key, object, wanted); err != nil {
		return errors.Join(failure, err)
	}
	if wake := pods.NextAvailable(active, set.Spec.MinReadySeconds, now); wake > 0 {
		e.loop.After(key, wake)
	}
	return failure
}

func (e *Engine[T]) claim(ctx context.Context, key loop.Key, set *appsv1.ReplicaSet, selector labels.Selector, candidates []*corev1.Pod) ([]*corev1.Pod, error) {
	return owned.Claims[corev1.Pod]{
		Owner: set, Kind: e.Kind.GroupVersionKind, Selector: selector,
		Fresh: func(ctx context.Context) (metav1.Object, error) { return e.Kind.Fresh(ctx, key) },
		In:    e.Pods, Patch: e.Control.Patch, Writes: &e.writes,
	}.Among(ctx, candidates)
}

// related are the pods of all sets that one owner rolls out over, among which
// pods crowd on a node.
func (e *Engine[T]) related(set *appsv1.ReplicaSet) []*corev1.Pod {
	ref := metav1.GetControllerOfNoCopy(set)
	if ref == nil {
		return e.Pods.ByOwner(set.UID)
	}
	var out []*corev1.Pod
	for _, sibling := range e.Sets.ByOwner(ref.UID) {
		out = append(out, e.Pods.ByOwner(e.Kind.View(sibling).UID)...)
	}
	return out
}

// apply carries a plan out and remembers what it wrote.
func (e *Engine[T]) apply(ctx context.Context, key loop.Key, object *T, p plan) error {
	set := e.Kind.View(object)
	owner := any(object).(runtime.Object)
	ref := metav1.NewControllerRef(set, e.Kind.GroupVersionKind)
	err := pods.Batches(p.create, func() error {
		created, err := e.Control.Create(ctx, owner, set.Namespace, pods.FromTemplate(&set.Spec.Template, set.Name, ref))
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // nothing can be made there any more, and that is right
		}
		return loop.Wrote(&e.writes, key, e.Pods, created, err)
	})
	if _, failed := pods.Each(p.delete, func(pod *corev1.Pod) error {
		err := e.Control.Delete(ctx, owner, pod)
		if err == nil {
			e.writes.Add(key, e.Pods.Until(pod.Namespace, pod.Name, pods.Gone(pod.UID)))
		}
		return err
	}); err == nil {
		err = failed // one is enough: the others will say the same
	}
	return err
}

func (e *Engine[T]) report(ctx context.Context, key loop.Key, object *T, wanted appsv1.ReplicaSetStatus) error {
	if equality.Semantic.DeepEqual(e.Kind.View(object).Status, wanted) {
		return nil
	}
	version, err := e.Kind.Status(ctx, object, wanted)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	e.writes.Add(key, e.Sets.Seen(version))
	return nil
}
