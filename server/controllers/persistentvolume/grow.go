package persistentvolume

import (
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
)

// grow brings a volume to the size that its claim asks for. The folder of a node
// or of an export has no size of its own, so the number is all there is to do:
// first the volume's, then the claim's.
func grow(c *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) step {
	asked, told, has := c.Spec.Resources.Requests[corev1.ResourceStorage], c.Status.Capacity[corev1.ResourceStorage], pv.Spec.Capacity[corev1.ResourceStorage]
	if asked.Cmp(told) <= 0 || c.DeletionTimestamp != nil {
		return step{}
	}
	if _, ours := link.Provisioned(pv); !ours {
		return step{}.tells(normal(c, externalExpanding, "waiting for an external controller to expand this PVC"))
	}
	if has.Cmp(asked) < 0 {
		out := pv.DeepCopy()
		out.Spec.Capacity[corev1.ResourceStorage] = asked
		return step{verb: updateVolume, volume: out}
	}
	out := c.DeepCopy()
	out.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: has}
	out.Status.Conditions = nil
	out.Status.AllocatedResources, out.Status.AllocatedResourceStatuses = nil, nil
	return step{verb: updateClaimStatus, claim: out}.tells(normal(c, "VolumeResizeSuccessful", "Resize volume succeeded"))
}
