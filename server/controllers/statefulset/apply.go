package statefulset

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/loop"
	"bramble.dev/server/controllers/pods"
)

// apply carries a plan out; the status is written also when a step failed,
// because it tells what is.
func (c *controller) apply(ctx context.Context, key loop.Key, set *appsv1.StatefulSet, p plan) error {
	err := c.run(ctx, key, set, p)
	if reported := c.report(ctx, key, set, p.status); reported != nil {
		return errors.Join(err, reported)
	}
	if truncated := c.history.Delete(ctx, key, p.surplus); truncated != nil {
		return errors.Join(err, truncated)
	}
	if p.wake > 0 {
		c.loop.After(key, p.wake)
	}
	return err
}

func (c *controller) run(ctx context.Context, key loop.Key, set *appsv1.StatefulSet, p plan) error {
	if p.together {
		var next atomic.Int64
		return pods.Batches(len(p.steps), func() error { return c.step(ctx, key, set, p.steps[next.Add(1)-1]) })
	}
	for _, s := range p.steps {
		if err := c.step(ctx, key, set, s); err != nil {
			return err
		}
	}
	return nil
}

func (c *controller) step(ctx context.Context, key loop.Key, set *appsv1.StatefulSet, s step) error {
	err := c.makeClaims(ctx, key, set, s)
	if err == nil {
		err = s.blocked
	}
	switch {
	case err != nil && s.create != nil:
		return c.told(set, "Create", s.create, err)
	case err != nil:
		return c.told(set, "Update", s.pod(), err)
	case s.create != nil:
		if err := c.create(ctx, key, set, s.create); err != nil {
			return err
		}
	}
	if err := c.own(ctx, key, set, s); err != nil {
		return err
	}
	if s.update != nil {
		updated, err := c.Client.CoreV1().Pods(set.Namespace).Update(ctx, s.update, metav1.UpdateOptions{})
		if err := c.told(set, "Update", s.update, loop.Wrote(&c.writes, key, c.Pods, updated, err)); err != nil {
			return err
		}
	}
	if s.delete != nil {
		return c.delete(ctx, key, set, s.delete)
	}
	return nil
}

// told records what became of a pod.
func (c *controller) told(set *appsv1.StatefulSet, verb string, pod *corev1.Pod, err error) error {
	switch {
	case pod == nil:
	case err == nil:
		c.Events.Eventf(set, corev1.EventTypeNormal, "Successful"+verb, "%s Pod %s in StatefulSet %s successful", verb, pod.Name, set.Name)
	case !apierrors.IsConflict(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		c.Events.Eventf(set, corev1.EventTypeWarning, "Failed"+verb, "%s Pod %s in StatefulSet %s failed error: %s", verb, pod.Name, set.Name, err)
	}
	return err
}

func (c *controller) makeClaims(ctx context.Context, key loop.Key, set *appsv1.StatefulSet, s step) error {
	for _, claim := range s.claims {
		created, err := c.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Create(ctx, claim, metav1.CreateOptions{})
		_, n := identity(claim.Name)
		who := podName(set, n)
		if err == nil {
			c.writes.Add(key, c.Claims.Seen(created.ResourceVersion))
			c.Events.Eventf(set, corev1.EventTypeNormal, "SuccessfulCreate", "Create Claim %s Pod %s in StatefulSet %s success", claim.Name, who, set.Name)
			continue
		}
		if !apierrors.IsAlreadyExists(err) {
			c.Events.Eventf(set, corev1.EventTypeWarning, "FailedCreate", "Create Claim %s for Pod %s in StatefulSet %s failed error: %s", claim.Name, who, set.Name, err)
		}
		return fmt.Errorf("failed to create PVC %s: %w", claim.Name, err)
	}
	return nil
}

// create makes a pod. One that is there under the name is not ours, or the
// cache has not shown it yet: either way it is waited for.
func (c *controller) create(ctx context.Context, key loop.Key, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	created, err := c.Client.CoreV1().Pods(set.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create Pod %s: %w", pod.Name, err)
	}
	return c.told(set, "Create", pod, loop.Wrote(&c.writes, key, c.Pods, created, err))
}

func (c *controller) own(ctx context.Context, key loop.Key, set *appsv1.StatefulSet, s step) error {
	for _, name := range s.foreign {
		c.Events.Eventf(set, corev1.EventTypeWarning, "ConflictingController", "PersistentVolumeClaim %s has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim", name)
	}
	for _, claim := range s.owners {
		updated, err := c.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("could not update claim %s for delete policy ownerRefs: %w", claim.Name, err)
		}
		c.writes.Add(key, c.Claims.Seen(updated.ResourceVersion))
	}
	return nil
}

// delete asks this very pod to go; it is gone when the API has lost it.
func (c *controller) delete(ctx context.Context, key loop.Key, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	err := c.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		err = nil
	}
	if err == nil {
		c.writes.Add(key, c.Pods.Until(pod.Namespace, pod.Name, pods.Gone(pod.UID)))
	}
	return c.told(set, "Delete", pod, err)
}

func (c *controller) report(ctx context.Context, key loop.Key, set *appsv1.StatefulSet, status appsv1.StatefulSetStatus) error {
	if equality.Semantic.DeepEqual(set.Status, status) {
		return nil
	}
	set = set.DeepCopy()
	set.Status = status
	written, err := c.Client.AppsV1().StatefulSets(set.Namespace).UpdateStatus(ctx, set, metav1.UpdateOptions{})
	return loop.Reported(&c.writes, key, c.StatefulSets, written, err)
}
