package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/loop"
	"bramble.dev/server/controllers/pods"
)

// apply carries a plan out. What could not be made or given up is left out of
// the status, and the rest goes on: pods that have ended are counted also while
// a quota refuses new ones.
func (c *controller) apply(ctx context.Context, key loop.Key, job *batchv1.Job, p plan) error {
	if _, err := pods.Each(p.stop, func(pod *corev1.Pod) error { return c.remove(ctx, key, job, pod) }); err != nil {
		return err
	}
	kept, dropFailed := pods.Each(p.drop, func(pod *corev1.Pod) error { return c.drop(ctx, key, job, pod) })
	made, createFailed := c.create(ctx, key, job, p.create)
	status := p.status
	ready, going := *status.Ready, *status.Terminating
	status.Active += int32(len(kept)) - int32(len(p.create)-made)
	ready += int32(len(pods.Filter(kept, pods.IsReady)))
	going -= int32(len(kept))
	status.Ready, status.Terminating = &ready, &going

	failure := errors.Join(dropFailed, createFailed)
	if err := c.report(ctx, key, job, status, p.events); err != nil {
		return errors.Join(failure, err)
	}
	c.remember(job.UID, p.backoff)
	if _, err := pods.Each(p.release, func(pod *corev1.Pod) error { return c.release(ctx, key, pod) }); err != nil {
		return errors.Join(failure, err)
	}
	if p.again {
		c.loop.Enqueue(key)
	}
	if p.wake > 0 {
		c.loop.After(key, p.wake)
	}
	return failure
}

func (c *controller) remove(ctx context.Context, key loop.Key, job *batchv1.Job, pod *corev1.Pod) error {
	if err := c.control.Delete(ctx, job, pod); err != nil {
		return err
	}
	c.writes.Add(key, c.Pods.Until(pod.Namespace, pod.Name, pods.Gone(pod.UID)))
	return nil
}

// drop gives a pod up that is not to be counted. If it ends between the two
// writes its work is done again.
func (c *controller) drop(ctx context.Context, key loop.Key, job *batchv1.Job, pod *corev1.Pod) error {
	if err := c.release(ctx, key, pod); err != nil {
		return err
	}
	return c.remove(ctx, key, job, pod)
}

// release takes the finalizer from a pod.
func (c *controller) release(ctx context.Context, key loop.Key, pod *corev1.Pod) error {
	if !isTracked(pod) {
		return nil
	}
	if _, err := c.control.Patch(ctx, pod, withoutFinalizer(map[string]any{"uid": pod.UID})); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("removing tracking finalizer of pod %s: %w", pod.Name, err)
	}
	c.writes.Add(key, c.Pods.Until(pod.Namespace, pod.Name, func(now *corev1.Pod) bool {
		return now == nil || now.UID != pod.UID || !isTracked(now)
	}))
	return nil
}

func withoutFinalizer(metadata map[string]any) []byte {
	metadata["$deleteFromPrimitiveList/finalizers"] = []string{batchv1.JobTrackingFinalizer}
	out, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		panic(err) // only strings are in it
	}
	return out
}

func (c *controller) create(ctx context.Context, key loop.Key, job *batchv1.Job, wanted []newPod) (made int, err error) {
	next := make(chan newPod, len(wanted))
	for _, n := range wanted {
		next <- n
	}
	var mu sync.Mutex
	err = pods.Batches(len(wanted), func() error {
		created, err := c.control.Create(ctx, job, job.Namespace, build(job, <-next))
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // nothing can be made there any more, and that is right
		}
		if err != nil {
			return err
		}
		c.writes.Add(key, c.Pods.Seen(created.ResourceVersion))
		mu.Lock()
		defer mu.Unlock()
		made++
		return nil
	})
	return made, err
}

// report writes the status, if it differs, and then tells of it. It is written
// over the version that was observed and no other: no count is added twice.
func (c *controller) report(ctx context.Context, key loop.Key, job *batchv1.Job, status batchv1.JobStatus, events []event) error {
	if !equality.Semantic.DeepEqual(job.Status, status) {
		changed := job.DeepCopy()
		changed.Status = status
		written, err := c.Client.BatchV1().Jobs(job.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("write status: %w", err)
		}
		c.writes.Add(key, c.Jobs.Seen(written.ResourceVersion))
	}
	for _, e := range events {
		c.Events.Event(job, e.kind, e.reason, e.message)
	}
	return nil
}
