package scheduler

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/component-helpers/storage/ephemeral"
	storagehelpers "k8s.io/component-helpers/storage/volume"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"bramble.dev/link"
	"bramble.dev/server/controllers/persistentvolume"
)

// volume is a claim of the pod with what is known of it.
type volume struct {
	claim  *corev1.PersistentVolumeClaim
	volume *corev1.PersistentVolume // nil while it is not bound
	class  *storagev1.StorageClass  // of one that waits for this decision
	bound  bool
	// impossible is why its class makes no volume for a claim that waits, whatever the node; nil if it may.
	impossible error
}

// volumes are the claims of a pod.
type volumes struct {
	all []volume
	// free are those that a claim which waits may be bound to.
	free []*corev1.PersistentVolume
	// taken is the other pod that has a claim which only one may have; nil if there is none.
	taken *corev1.Pod
	// advice is more words about a message.
	advice string
}

// storage finds claims, volumes and classes.
type storage interface {
	Claim(namespace, name string) (*corev1.PersistentVolumeClaim, bool)
	Volume(name string) (*corev1.PersistentVolume, bool)
	Volumes() []*corev1.PersistentVolume
	Class(name string) (*storagev1.StorageClass, bool)
	// Used is another pod that has a node and uses a claim, or nil.
	Used(claim *corev1.PersistentVolumeClaim, by *corev1.Pod) *corev1.Pod
}

// volumesOf finds the pod's claims. A message says what every node must wait for.
func volumesOf(pod *corev1.Pod, s storage) (out volumes, message string) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		name, ok := link.ClaimOf(pod, v)
		if !ok {
			continue
		}
		claim, ok := s.Claim(pod.Namespace, name)
		switch {
		case !ok && v.Ephemeral != nil:
			return volumes{}, fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
		case !ok:
			return volumes{}, fmt.Sprintf("persistentvolumeclaim %q not found", name)
		case v.Ephemeral != nil && ephemeral.VolumeIsForPod(pod, claim) != nil:
			return volumes{}, ephemeral.VolumeIsForPod(pod, claim).Error()
		case claim.DeletionTimestamp != nil:
			return volumes{}, fmt.Sprintf("persistentvolumeclaim %q is being deleted", name)
		case claim.Status.Phase == corev1.ClaimLost:
			return volumes{}, fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
		}
		one := volume{claim: claim, bound: claim.Spec.VolumeName != "" && claim.Annotations[storagehelpers.AnnBindCompleted] != ""}
		if one.bound {
			one.volume, _ = s.Volume(claim.Spec.VolumeName)
		} else if one.class = waitsForConsumer(claim, s); one.class == nil {
			return volumes{advice: unbound(claim, s)}, "pod has unbound immediate PersistentVolumeClaims"
		}
		if one.class != nil {
			one.impossible = persistentvolume.Impossible(claim, one.class)
		}
		out.all = append(out.all, one)
		if out.taken == nil && slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
			out.taken = s.Used(claim, pod)
		}
	}
	if len(out.unbound()) > 0 {
		out.free = s.Volumes()
		slices.SortFunc(out.free, func(a, b *corev1.PersistentVolume) int { return cmp.Compare(a.Name, b.Name) })
	}
	return out, ""
}

// waitsForConsumer is the class of a claim that waits for a pod.
func waitsForConsumer(claim *corev1.PersistentVolumeClaim, s storage) *storagev1.StorageClass {
	class, ok := s.Class(storagehelpers.GetPersistentVolumeClaimClass(claim))
	if ok && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer {
		return class
	}
	return nil
}

// unbound are the claims that wait for this decision.
func (v volumes) unbound() (out []volume) {
	for _, one := range v.all {
		if !one.bound {
			out = append(out, one)
		}
	}
	return out
}

// reachableVolumes refuses nodes from which a volume cannot be reached, or for which there is none.
func reachableVolumes(p *candidate, n *nodeState) *refusal {
	if p.volumes.taken != nil {
		return never("node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod")
	}
	for _, v := range p.volumes.all {
		switch {
		case !v.bound:
		case v.volume == nil:
			return never("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
		case !reaches(n.node, v.volume):
			return never("node(s) didn't match PersistentVolume's node affinity")
		}
	}
	if len(p.volumes.unbound()) == 0 {
		return nil
	}
	if _, why := placeVolumes(p.volumes, n.node); why != "" {
		return never(why)
	}
	return nil
}

func reaches(n *corev1.Node, pv *corev1.PersistentVolume) bool {
	a := pv.Spec.NodeAffinity
	if a == nil || a.Required == nil {
		return true
	}
	ok, _ := nodeaffinity.NewLazyErrorNodeSelector(a.Required).Match(n)
	return ok
}

// placement is what becomes of the claims that wait, if the pod goes to a node: each gets a volume that is there, or is given to
// its provisioner.
type placement struct {
	bind      map[*corev1.PersistentVolumeClaim]*corev1.PersistentVolume
	provision []*corev1.PersistentVolumeClaim
}

const noVolume = "node(s) didn't find available persistent volumes to bind"

// The smallest claim chooses first, so that it does not take what a larger one needs.
func placeVolumes(v volumes, n *corev1.Node) (out placement, refusal string) {
	out.bind = map[*corev1.PersistentVolumeClaim]*corev1.PersistentVolume{}
	waiting := v.unbound()
	slices.SortStableFunc(waiting, func(a, b volume) int { return size(a).Cmp(*size(b)) })
	taken := map[string]*corev1.PersistentVolume{}
	for _, one := range waiting {
		if chosen := one.claim.Annotations[storagehelpers.AnnSelectedNode]; chosen != "" && chosen != n.Name {
			return out, noVolume // its provisioner has been told of another node
		}
		pv, err := storagehelpers.FindMatchingVolume(one.claim, v.free, n, taken, false, true)
		switch {
		case err == nil && pv != nil:
			out.bind[one.claim] = pv
			taken[pv.Name] = pv
		case one.class.Provisioner == "" || one.class.Provisioner == persistentvolume.NoProvisioner, one.claim.Spec.VolumeName != "":
			return out, noVolume
		case one.impossible != nil, !persistentvolume.Allowed(one.class, n):
			return out, noVolume
		default:
			out.provision = append(out.provision, one.claim)
		}
	}
	return out, ""
}

func size(v volume) *resource.Quantity {
	q := v.claim.Spec.Resources.Requests[corev1.ResourceStorage]
	return &q
}
