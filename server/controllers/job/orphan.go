package job

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/loop"
)

// keysOfRest are the pods that a Job leaves behind with a finalizer when it is
// gone, or ended by somebody else's doing.
func (c *controller) keysOfRest(job *batchv1.Job) []loop.Key {
	var keys []loop.Key
	for _, pod := range c.Pods.ByOwner(job.UID) {
		if isTracked(pod) {
			keys = append(keys, loop.PodKey(pod))
		}
	}
	return keys
}

// hasJob says that a Job counts the pod, or that its finalizer is not our business.
func (c *controller) hasJob(pod *corev1.Pod) bool {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return false
	}
	if ref.Kind != kind.Kind || ref.APIVersion != batchv1.SchemeGroupVersion.String() {
		return true
	}
	job, ok := c.Jobs.Get(pod.Namespace, ref.Name)
	return ok && counts(job, ref)
}

func counts(job *batchv1.Job, ref *metav1.OwnerReference) bool {
	return job.UID == ref.UID && (Finished(job) == nil || !isOurs(job))
}

// free takes the finalizer from a pod that no Job counts, so that it can go. The
// API is asked before the Job is taken for gone, and the pod must be as it was
// seen: somebody may be adopting it.
func (c *controller) free(ctx context.Context, key loop.Key) error {
	pod, ok := c.Pods.Get(key.Namespace, key.Name)
	if !ok || !isTracked(pod) || c.hasJob(pod) {
		return nil
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		job, err := c.Client.BatchV1().Jobs(key.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		switch {
		case err == nil && counts(job, ref):
			return nil
		case err != nil && !apierrors.IsNotFound(err):
			return fmt.Errorf("read Job %s: %w", ref.Name, err)
		}
	}
	_, err := c.control.Patch(ctx, pod, withoutFinalizer(map[string]any{"uid": pod.UID, "resourceVersion": pod.ResourceVersion}))
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("removing tracking finalizer of pod %s, which has no Job: %w", pod.Name, err)
	}
	return nil
}
