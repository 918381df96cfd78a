package deployment

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/loop"
)

// rollbackTo reads the revision that a client of extensions/v1beta1 asked to go
// back to; zero is the one before the present. kubectl of today sends the old
// template instead.
func rollbackTo(d *appsv1.Deployment) (int64, bool) {
	n, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedRollbackTo], 10, 64)
	return n, err == nil
}

// rollBack makes an old template the present one and takes the request away.
func (c *controller) rollBack(ctx context.Context, key loop.Key, d *appsv1.Deployment, sets []*appsv1.ReplicaSet, to int64) error {
	d = d.DeepCopy()
	delete(d.Annotations, appsv1.DeprecatedRollbackTo)
	target := atRevision(sets, to)
	switch {
	case target == nil && to == 0:
		c.Events.Event(d, corev1.EventTypeWarning, "DeploymentRollbackRevisionNotFound", "Unable to find last revision.")
	case target == nil:
		c.Events.Event(d, corev1.EventTypeWarning, "DeploymentRollbackRevisionNotFound", "Unable to find the revision to rollback to.")
	case sameTemplate(&d.Spec.Template, &target.Spec.Template):
		c.Events.Eventf(d, corev1.EventTypeWarning, "DeploymentRollbackTemplateUnchanged", "The rollback revision contains the same template as current deployment %q", d.Name)
	default:
		d.Spec.Template = *target.Spec.Template.DeepCopy()
		delete(d.Spec.Template.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
		for k, v := range target.Annotations {
			if !notCopied[k] {
				metav1.SetMetaDataAnnotation(&d.ObjectMeta, k, v)
			}
		}
		c.Events.Eventf(d, corev1.EventTypeNormal, "DeploymentRollback", "Rolled back deployment %q to revision %d", d.Name, revisionOf(target))
	}
	updated, err := c.Client.AppsV1().Deployments(d.Namespace).Update(ctx, d, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("roll back: %w", err)
	}
	c.writes.Add(key, c.Deployments.Seen(updated.ResourceVersion))
	return nil
}

// atRevision finds the set of a revision; zero means the last but one.
func atRevision(sets []*appsv1.ReplicaSet, revision int64) *appsv1.ReplicaSet {
	if revision == 0 {
		all := make([]int64, 0, len(sets))
		for _, rs := range sets {
			all = append(all, revisionOf(rs))
		}
		if len(all) < 2 {
			return nil
		}
		slices.Sort(all)
		revision = all[len(all)-2]
	}
	for _, rs := range sets {
		if revision > 0 && revisionOf(rs) == revision {
			return rs
		}
	}
	return nil
}
