package deployment

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/loop"
)

// apply carries a plan out; each write is remembered, so that the next plan
// starts from what this one did.
func (c *controller) apply(ctx context.Context, key loop.Key, d *appsv1.Deployment, p plan) error {
	if p.create != nil {
		err := c.create(ctx, key, d, p.create)
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // nothing can be made there any more, and that is right
		}
		if err != nil {
			return err
		}
	}
	for _, u := range p.update {
		if err := c.update(ctx, key, d, u); err != nil {
			return err
		}
	}
	for _, rs := range p.delete {
		err := c.Client.AppsV1().ReplicaSets(rs.Namespace).Delete(ctx, rs.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(rs.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete ReplicaSet %s of an old revision: %w", rs.Name, err)
		}
		c.writes.Add(key, c.ReplicaSets.Until(rs.Namespace, rs.Name, func(now *appsv1.ReplicaSet) bool {
			return now == nil || now.UID != rs.UID || now.DeletionTimestamp != nil
		}))
	}
	if err := c.report(ctx, key, d, p.status, p.revision); err != nil {
		return err
	}
	if p.wake > 0 {
		c.loop.After(key, p.wake)
	}
	return nil
}

func (c *controller) update(ctx context.Context, key loop.Key, d *appsv1.Deployment, u change) error {
	updated, err := c.Client.AppsV1().ReplicaSets(u.set.Namespace).Update(ctx, u.set, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("update ReplicaSet %s: %w", u.set.Name, err)
	}
	c.writes.Add(key, c.ReplicaSets.Seen(updated.ResourceVersion))
	direction := "up"
	to := *u.set.Spec.Replicas
	if u.from > to {
		direction = "down"
	}
	if u.from != to {
		c.Events.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction, u.set.Name, u.from, to)
	}
	return nil
}

func (c *controller) create(ctx context.Context, key loop.Key, d *appsv1.Deployment, rs *appsv1.ReplicaSet) error {
	created, err := c.Client.AppsV1().ReplicaSets(rs.Namespace).Create(ctx, rs, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return c.collide(ctx, key, d, rs, err)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return err
	case err != nil:
		msg := fmt.Sprintf("Failed to create new replica set %q: %v", rs.Name, err)
		c.Events.Eventf(d, corev1.EventTypeWarning, setCreateError, "%s", msg)
		if hasDeadline(d) {
			c.reportFailure(ctx, key, d, msg)
		}
		return fmt.Errorf("create ReplicaSet %s: %w", rs.Name, err)
	}
	c.writes.Add(key, c.ReplicaSets.Seen(created.ResourceVersion))
	if n := *rs.Spec.Replicas; n > 0 {
		c.Events.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", created.Name, n)
	}
	return nil
}

func (c *controller) reportFailure(ctx context.Context, key loop.Key, d *appsv1.Deployment, message string) {
	status := *d.Status.DeepCopy()
	now := metaTime(time.Now())
	setCondition(&status, appsv1.DeploymentCondition{
		Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: setCreateError, Message: message,
		LastUpdateTime: now, LastTransitionTime: now,
	})
	if err := c.report(ctx, key, d, status, ""); err != nil {
		c.Log.Debug("the failure could not be put into the status", "deployment", key.String(), "err", err)
	}
}

// collide handles a ReplicaSet of the wanted name that is there already: it is
// ours and the cache will show it, or another template has the same hash, and
// counting collisions makes the next hash another one.
func (c *controller) collide(ctx context.Context, key loop.Key, d *appsv1.Deployment, wanted *appsv1.ReplicaSet, cause error) error {
	there, err := c.Client.AppsV1().ReplicaSets(wanted.Namespace).Get(ctx, wanted.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read ReplicaSet %s that is in the way: %w", wanted.Name, err)
	}
	if metav1.IsControlledBy(there, d) && sameTemplate(&d.Spec.Template, &there.Spec.Template) {
		c.writes.Add(key, c.ReplicaSets.Seen(there.ResourceVersion))
		return nil
	}
	status := *d.Status.DeepCopy()
	count := int32(1)
	if status.CollisionCount != nil {
		count += *status.CollisionCount
	}
	status.CollisionCount = &count
	if err := c.report(ctx, key, d, status, ""); err != nil {
		return err
	}
	return fmt.Errorf("create ReplicaSet %s: %w", wanted.Name, cause)
}

// report writes the status and, with it, the Deployment's own revision.
func (c *controller) report(ctx context.Context, key loop.Key, d *appsv1.Deployment, status appsv1.DeploymentStatus, revision string) error {
	sameRevision := revision == "" || d.Annotations[revisionAnnotation] == revision
	if sameRevision && equality.Semantic.DeepEqual(d.Status, status) {
		return nil
	}
	d = d.DeepCopy()
	d.Status = status
	if !sameRevision {
		metav1.SetMetaDataAnnotation(&d.ObjectMeta, revisionAnnotation, revision)
	}
	written, err := c.Client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{})
	return loop.Reported(&c.writes, key, c.Deployments, written, err)
}
