package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	corev1 "k8s.io/api/core/v1"
)

// Control writes pods and says so in events of their owner.
type Control struct {
	Client kubernetes.Interface
	Events record.EventRecorder
}

// Create makes a pod.
func (c Control) Create(ctx context.Context, owner runtime.Object, namespace string, pod *corev1.Pod) (*corev1.Pod, error) {
	if len(pod.Labels) == 0 {
		return nil, errors.New("unable to create pods, no labels")
	}
	created, err := c.Client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			c.Events.Eventf(owner, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return nil, err
	}
	c.Events.Eventf(owner, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", created.Name)
	return created, nil
}

// Delete asks a pod to go; one that is gone already is no error.
func (c Control) Delete(ctx context.Context, owner runtime.Object, pod *corev1.Pod) error {
	err := c.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // gone, or made again under its name
		return nil
	case err != nil:
		c.Events.Eventf(owner, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return fmt.Errorf("unable to delete pods: %w", err)
	}
	c.Events.Eventf(owner, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
	return nil
}

// Patch changes a pod's metadata.
func (c Control) Patch(ctx context.Context, pod *corev1.Pod, patch []byte) (*corev1.Pod, error) {
	return c.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
}

// Gone says of a cached pod that a deletion of this one has been seen.
func Gone(uid types.UID) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return p == nil || p.UID != uid || p.DeletionTimestamp != nil }
}

// Batches runs do count times, first once, then twice as often each time while
// nothing fails, so that what must fail fails once and not a thousand times. It
// returns the first error.
func Batches(count int, do func() error) error {
	for size := 1; count > 0; size *= 2 {
		n := min(size, count)
		errs := make(chan error, n)
		for range n {
			go func() { errs <- do() }()
		}
		var first error
		for range n {
			if err := <-errs; err != nil && first == nil {
				first = err
			}
		}
		if first != nil {
			return first
		}
		count -= n
	}
	return nil
}

// Each does something with all pods, some of them side by side, and gives those
// for which it failed, with the first error.
func Each(all []*corev1.Pod, do func(*corev1.Pod) error) (left []*corev1.Pod, err error) {
	var wg sync.WaitGroup
	errs := make([]error, len(all))
	limit := make(chan struct{}, atOnce)
	for i, pod := range all {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			errs[i] = do(pod)
		})
	}
	wg.Wait()
	for i, e := range errs {
		if e != nil {
			left = append(left, all[i])
			if err == nil {
				err = e
			}
		}
	}
	return left, err
}

// atOnce bounds the writes that wait side by side, which share a sync of the disk.
const atOnce = 16

// PatchStatus writes what differs between two statuses of one pod, for
// components that may patch but not replace it.
func PatchStatus(ctx context.Context, client kubernetes.Interface, before, after *corev1.Pod) error {
	type statusOnly struct {
		Metadata map[string]types.UID `json:"metadata"`
		Status   corev1.PodStatus     `json:"status"`
	}
	uid := map[string]types.UID{"uid": before.UID}
	old, err := json.Marshal(statusOnly{nil, before.Status})
	if err != nil {
		return err
	}
	now, err := json.Marshal(statusOnly{uid, after.Status})
	if err != nil {
		return err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(old, now, corev1.Pod{})
	if err != nil {
		return fmt.Errorf("compare statuses: %w", err)
	}
	_, err = client.CoreV1().Pods(before.Namespace).Patch(ctx, before.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}
