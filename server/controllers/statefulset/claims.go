package statefulset

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

const retain, remove = appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType

func retention(set *appsv1.StatefulSet) appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy {
	if p := set.Spec.PersistentVolumeClaimRetentionPolicy; p != nil {
		return *p
	}
	return appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: retain, WhenScaled: retain}
}

// names says that a reference is to an object of this kind and name; whether it
// is to this very one its UID says.
func names(ref metav1.OwnerReference, object metav1.Object, k schema.GroupVersionKind) bool {
	return ref.APIVersion == k.GroupVersion().String() && ref.Kind == k.Kind && ref.Name == object.GetName()
}

// isStale says that a claim belongs to an earlier object of this name.
func isStale(claim *corev1.PersistentVolumeClaim, object metav1.Object, k schema.GroupVersionKind) bool {
	for _, ref := range claim.OwnerReferences {
		if names(ref, object, k) {
			return ref.UID != object.GetUID()
		}
	}
	return false
}

// ownership is what the retention policy makes of a claim's owners.
type ownership struct {
	refs []metav1.OwnerReference
	// changed says that refs are not what the claim has.
	changed bool
	// foreign says that another controller has the claim, so that the policy is
	// not followed.
	foreign bool
}

// ownersOf says who should own a pod's claim: the set if claims go with it, and
// the pod once it has no place any more if they go with that. The garbage
// collector does the rest.
func ownersOf(set *appsv1.StatefulSet, pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) ownership {
	if isStale(claim, set, kind) || isStale(claim, pod, podKind) {
		return ownership{refs: claim.OwnerReferences} // the collector has not been here yet
	}
	policy := retention(set)
	follows := policy.WhenDeleted == remove || policy.WhenScaled == remove
	scaledDown := !wanted(set, ordinalOf(pod))
	ofSet := policy.WhenDeleted == remove && (policy.WhenScaled != remove || !scaledDown)
	ofPod := policy.WhenScaled == remove && scaledDown

	var out ownership
	var others []metav1.OwnerReference
	hasSet, hasPod, loose := false, false, false
	for _, ref := range claim.OwnerReferences {
		controls := ref.Controller != nil && *ref.Controller
		switch {
		case names(ref, set, kind):
			hasSet, loose = true, loose || !controls
		case names(ref, pod, podKind):
			hasPod, loose = true, loose || !controls
		default:
			others = append(others, ref)
			out.foreign = out.foreign || follows && controls
		}
	}
	if out.foreign {
		ofSet, ofPod = false, false
	}
	out.changed = hasSet != ofSet || hasPod != ofPod || loose
	if !out.changed {
		out.refs = claim.OwnerReferences
		return out
	}
	out.refs = slices.Clone(others)
	if ofSet {
		out.refs = append(out.refs, *metav1.NewControllerRef(set, kind))
	}
	if ofPod {
		out.refs = append(out.refs, *metav1.NewControllerRef(pod, podKind))
	}
	return out
}
