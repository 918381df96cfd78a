package disruption

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	autoscalingv1 "k8s.io/api/autoscaling/v1"

	"bramble.dev/server/cache"
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
	served, err := c.Client.Discovery().ServerResourcesForGroupVersion(gv.String())
	if err != nil {
		return 0, "", fmt.Errorf("resources of %s: %w", gv, err)
	}
	resource := ""
	scales := map[string]bool{}
	for _, r := range served.APIResources {
		if r.Kind == ref.Kind && resource == "" {
			resource = r.Name
		}
		scales[r.Name] = true
	}
	if resource == "" {
		return 0, "", fmt.Errorf("no matches for kind %q in version %q", ref.Kind, gv)
	}
	if !scales[resource+"/scale"] {
		return 0, "", fmt.Errorf("%s does not implement the scale subresource", schema.GroupResource{Group: gv.Group, Resource: resource})
	}
	body, err := c.Client.CoreV1().RESTClient().Get().
		AbsPath("/apis", gv.Group, gv.Version, "namespaces", namespace, resource, ref.Name, "scale").
		SetHeader("Accept", "application/json").DoRaw(ctx)
	if apierrors.IsNotFound(err) {
		return 0, "", nil
	}
	if err != nil {
		return 0, "", err
	}
	var scale autoscalingv1.Scale
	if err := json.Unmarshal(body, &scale); err != nil {
		return 0, "", fmt.Errorf("scale of %s %s: %w", ref.Kind, ref.Name, err)
	}
	if scale.UID != ref.UID {
		return 0, "", nil
	}
	return scale.Spec.Replicas, scale.UID, nil
}
