package disruption

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/scales"
)

// sizeOf finds the size that a pod's controller wants: that of the Deployment
// behind a ReplicaSet, and for kinds that are not known here what their scale says.
func (c *controller) sizeOf(ctx context.Context, namespace string, ref *metav1.OwnerReference) (size int32, root types.UID, err error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return 0, "", err
	}
	switch (schema.GroupKind{Group: gv.Group, Kind: ref.Kind}) {
	case schema.GroupKind{Kind: "ReplicationController"}:
		if rc := owner(c.ReplicationControllers, namespace, ref); rc != nil {
			return *rc.Spec.Replicas, rc.UID, nil
		}
		return 0, "", nil
	case schema.GroupKind{Group: "apps", Kind: "StatefulSet"}:
		if set := owner(c.StatefulSets, namespace, ref); set != nil {
			return *set.Spec.Replicas, set.UID, nil
		}
		return 0, "", nil
	case schema.GroupKind{Group: "apps", Kind: "ReplicaSet"}:
		rs := owner(c.ReplicaSets, namespace, ref)
		if rs == nil {
			return 0, "", nil
		}
		above := metav1.GetControllerOfNoCopy(rs)
		if above == nil || above.Kind != "Deployment" {
			return *rs.Spec.Replicas, rs.UID, nil
		}
		if d := owner(c.Deployments, namespace, above); d != nil {
			return *d.Spec.Replicas, d.UID, nil
		}
		return 0, "", nil
	}
	return c.scaleOf(ctx, gv, namespace, ref)
}

// owner is the object that a reference names, if it is still the same one.
func owner[T any](c *cache.Cache[T], namespace string, ref *metav1.OwnerReference) *T {
	object, ok := c.Get(namespace, ref.Name)
	if !ok || any(object).(metav1.Object).GetUID() != ref.UID {
		return nil
	}
	return object
}

// scaleOf reads the scale subresource of an object.
func (c *controller) scaleOf(ctx context.Context, gv schema.GroupVersion, namespace string, ref *metav1.OwnerReference) (int32, types.UID, error) {
	resource, err := scales.Find(ctx, c.Client, gv, ref.Kind)
	if err != nil {
		return 0, "", err
	}
	scale, err := scales.Get(ctx, c.Client, resource, namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		return 0, "", nil
	}
	if err != nil {
		return 0, "", err
	}
	if scale.UID != ref.UID {
		return 0, "", nil
	}
	return scale.Spec.Replicas, scale.UID, nil
}
