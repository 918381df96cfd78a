package job

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
	"bramble.dev/server/controllers/owned"
	"bramble.dev/server/controllers/pods"
)

var kind = batchv1.SchemeGroupVersion.WithKind("Job")

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client kubernetes.Interface
	Events record.EventRecorder
	Jobs   *cache.Cache[batchv1.Job]
	Pods   *cache.Cache[corev1.Pod]
	Log    *slog.Logger
}

type controller struct {
	Inputs
	control pods.Control
	loop    *loop.Loop
	writes  loop.Writes

	mu sync.Mutex
	// backoffs holds the failures of Jobs that have any, until they end.
	backoffs map[types.UID]backoff
}

// New makes the controller of Jobs. Its keys are Jobs, and pods whose finalizer
// no Job will take (see orphan.go).
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in, control: pods.Control{Client: in.Client, Events: in.Events}, backoffs: map[types.UID]backoff{}}
	c.loop = loop.New("job-controller", in.Log, c.reconcile)
	loop.Watch(c.loop, in.Jobs, c.keysOfJob)
	loop.Watch(c.loop, in.Pods, c.keysOfPod)
	return c.loop
}

// keysOfJob wakes a Job at once when what is wanted of it changed. A change of
// its status, most of them its own, is gathered with those of its pods.
func (c *controller) keysOfJob(change cache.Change[batchv1.Job]) []loop.Key {
	job := change.New
	if job == nil || Finished(job) != nil {
		c.forget(change.Object().UID)
		return c.keysOfRest(change.Object())
	}
	if old := change.Old; old != nil && old.Generation == job.Generation && old.DeletionTimestamp.Equal(job.DeletionTimestamp) {
		c.loop.After(change.Key(), batch)
		return nil
	}
	return []loop.Key{change.Key()}
}

// keysOfPod wakes the Jobs of a pod after a while, in which more pods may change.
func (c *controller) keysOfPod(change cache.Change[corev1.Pod]) []loop.Key {
	adopters := loop.Adopters(change, c.Jobs, func(job *batchv1.Job) *metav1.LabelSelector { return job.Spec.Selector })
	for _, key := range append(loop.Owner[corev1.Pod](kind.Kind)(change), adopters...) {
		c.loop.After(key, batch)
	}
	pod := change.New
	if pod != nil && isTracked(pod) && !c.hasJob(pod) {
		return []loop.Key{loop.PodKey(pod)}
	}
	return nil
}

// isOurs says that a Job is not managed by somebody else's controller.
func isOurs(j *batchv1.Job) bool {
	return j.Spec.ManagedBy == nil || *j.Spec.ManagedBy == batchv1.JobControllerName
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	if pod, ok := loop.Pod(key); ok {
		return c.free(ctx, pod)
	}
	if err := c.writes.Settle(ctx, key); err != nil {
		return err
	}
	job, ok := c.Jobs.Get(key.Namespace, key.Name)
	if !ok || Finished(job) != nil || !isOurs(job) {
		return nil
	}
	if mode := job.Spec.CompletionMode; mode != nil && *mode != batchv1.NonIndexedCompletion && *mode != batchv1.IndexedCompletion {
		c.Events.Event(job, corev1.EventTypeWarning, "UnknownCompletionMode", "Skipped Job sync because completion mode is unknown")
		return nil
	}
	mine, err := c.claim(ctx, job)
	if err != nil {
		return err
	}
	for _, pod := range mine {
		if !metav1.IsControlledBy(pod, job) {
			c.loop.Enqueue(key) // just adopted: the next step sees it as it is now
			return nil
		}
	}
	p := decide(observed{job: job, pods: mine, backoff: c.recall(job.UID), now: time.Now()})
	return c.apply(ctx, key, job, p)
}

func (c *controller) claim(ctx context.Context, job *batchv1.Job) ([]*corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil {
		return nil, loop.Permanent(fmt.Errorf("selector: %w", err))
	}
	return owned.Claims[corev1.Pod]{
		Owner: job, Kind: kind, Selector: selector, Finalizers: []string{batchv1.JobTrackingFinalizer},
		Fresh: func(ctx context.Context) (metav1.Object, error) {
			return c.Client.BatchV1().Jobs(job.Namespace).Get(ctx, job.Name, metav1.GetOptions{})
		},
		In: c.Pods, Patch: c.control.Patch, Writes: &c.writes,
	}.Claim(ctx)
}

func (c *controller) recall(uid types.UID) backoff {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.backoffs[uid]
}

func (c *controller) remember(uid types.UID, b backoff) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.failures == 0 {
		delete(c.backoffs, uid)
		return
	}
	c.backoffs[uid] = b
}

func (c *controller) forget(uid types.UID) { c.remember(uid, backoff{}) }
