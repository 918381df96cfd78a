package scheduler

import (
	"fmt"

	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// selectedNode tells a provisioner where the pod of a claim will run.
const selectedNode = "volume.kubernetes.io/selected-node"

// volume is a claim of the pod with what is known of it.
type volume struct {
	claim  *corev1.PersistentVolumeClaim
	volume *corev1.PersistentVolume // nil while it is not bound
}

// Storage finds claims, volumes and classes.
type Storage interface {
	Claim(namespace, name string) (*corev1.PersistentVolumeClaim, bool)
	Volume(name string) (*corev1.PersistentVolume, bool)
	Class(name string) (*storagev1.StorageClass, bool)
}

// volumesOf finds the pod's claims. A message says what every node must wait for.
func volumesOf(pod *corev1.Pod, s Storage) (out []volume, message string) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		name := ""
		switch {
		case v.PersistentVolumeClaim != nil:
			name = v.PersistentVolumeClaim.ClaimName
		case v.Ephemeral != nil:
			name = pod.Name + "-" + v.Name
		default:
			continue
		}
		claim, ok := s.Claim(pod.Namespace, name)
		switch {
		case !ok && v.Ephemeral != nil:
			return nil, fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
		case !ok:
			return nil, fmt.Sprintf("persistentvolumeclaim %q not found", name)
		case claim.DeletionTimestamp != nil:
			return nil, fmt.Sprintf("persistentvolumeclaim %q is being deleted", name)
		case claim.Status.Phase == corev1.ClaimLost:
			return nil, fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
		}
		one := volume{claim: claim}
		if claim.Spec.VolumeName != "" && claim.Status.Phase == corev1.ClaimBound {
			one.volume, _ = s.Volume(claim.Spec.VolumeName)
		} else if !waitsForConsumer(claim, s) {
			return nil, "pod has unbound immediate PersistentVolumeClaims"
		}
		out = append(out, one)
	}
	return out, ""
}

func waitsForConsumer(claim *corev1.PersistentVolumeClaim, s Storage) bool {
	if claim.Spec.StorageClassName == nil {
		return false
	}
	class, ok := s.Class(*claim.Spec.StorageClassName)
	return ok && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// reachableVolumes refuses nodes from which a volume cannot be reached.
func reachableVolumes(p *candidate, n *nodeState) *refusal {
	for _, v := range p.volumes {
		if v.volume == nil {
			if v.claim.Spec.VolumeName != "" {
				return never("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
			}
			continue
		}
		a := v.volume.Spec.NodeAffinity
		if a == nil || a.Required == nil {
			continue
		}
		if ok, _ := nodeaffinity.NewLazyErrorNodeSelector(a.Required).Match(n.node); !ok {
			return never("node(s) didn't match PersistentVolume's node affinity")
		}
	}
	return nil
}

// unbound are the claims that wait for this decision.
func unbound(p *candidate) []*corev1.PersistentVolumeClaim {
	var out []*corev1.PersistentVolumeClaim
	for _, v := range p.volumes {
		if v.claim.Status.Phase != corev1.ClaimBound {
			out = append(out, v.claim)
		}
	}
	return out
}
