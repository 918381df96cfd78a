package persistentvolume

import (
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	storagehelpers "k8s.io/component-helpers/storage/volume"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// world is what a decision looks at: the caches, or maps in a test.
type world interface {
	claim(namespace, name string) *corev1.PersistentVolumeClaim
	volume(name string) *corev1.PersistentVolume
	volumes() []*corev1.PersistentVolume // sorted by name
	class(name string) *storagev1.StorageClass
	defaultClass() *storagev1.StorageClass
	node(name string) *corev1.Node
	nodes() []*corev1.Node                                            // sorted by name
	waitingPods(claim *corev1.PersistentVolumeClaim) (names []string) // that have no node yet
}

// step is the one next write, what is told, or nothing at all.
type step struct {
	verb   verb
	claim  *corev1.PersistentVolumeClaim
	volume *corev1.PersistentVolume
	events []event
	// also is a claim that is to be looked at next.
	also *corev1.ObjectReference
}

type verb byte

const (
	rest verb = iota
	updateClaim
	updateClaimStatus
	updateVolume
	updateVolumeStatus
	createVolume
	deleteVolume
)

// event is told after the write has succeeded.
type event struct {
	about                 runtime.Object
	kind, reason, message string
}

func normal(about runtime.Object, reason, message string) event {
	return event{about, corev1.EventTypeNormal, reason, message}
}

func warning(about runtime.Object, reason, message string) event {
	return event{about, corev1.EventTypeWarning, reason, message}
}

// tells adds an event to a step.
func (s step) tells(e event) step {
	s.events = append(s.events, e)
	return s
}

// claimPhase writes a claim's status when it is not as wanted: of what it is
// bound to, or of nothing.
func claimPhase(c *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, pv *corev1.PersistentVolume) step {
	out := c.DeepCopy()
	out.Status.Phase = phase
	if pv == nil {
		out.Status.AccessModes, out.Status.Capacity, out.Status.CurrentVolumeAttributesClassName = nil, nil, nil
	} else {
		out.Status.AccessModes = pv.Spec.AccessModes
		if c.Status.Phase != phase { // later, its size is for whoever grows it to tell
			out.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: pv.Spec.Capacity[corev1.ResourceStorage]}
		}
		if c.Status.Phase == corev1.ClaimPending {
			out.Status.CurrentVolumeAttributesClassName = pv.Spec.VolumeAttributesClassName
		}
	}
	if equality.Semantic.DeepEqual(c.Status, out.Status) {
		return step{}
	}
	return step{verb: updateClaimStatus, claim: out}
}

// lost is what becomes of a claim whose volume is gone. It is told once.
func lost(c *corev1.PersistentVolumeClaim, reason, message string) step {
	if c.Status.Phase == corev1.ClaimLost {
		return step{}
	}
	return claimPhase(c, corev1.ClaimLost, nil).tells(warning(c, reason, message))
}

func volumePhase(pv *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string) step {
	if pv.Status.Phase == phase {
		return step{}
	}
	out := pv.DeepCopy()
	out.Status.Phase, out.Status.Message = phase, message
	return step{verb: updateVolumeStatus, volume: out}
}

// bind is the next of the four writes that bind a claim and a volume. The
// volume's come first: it can be taken only once.
func bind(pv *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) (step, error) {
	bound, changed, err := storagehelpers.GetBindVolumeToClaim(pv, c)
	if err != nil {
		return step{}, err
	}
	if changed {
		return step{verb: updateVolume, volume: bound}, nil
	}
	if s := volumePhase(pv, corev1.VolumeBound, ""); s.verb != rest {
		return s, nil
	}
	if c.Spec.VolumeName != pv.Name || !metav1.HasAnnotation(c.ObjectMeta, storagehelpers.AnnBindCompleted) {
		out := c.DeepCopy()
		if c.Spec.VolumeName != pv.Name {
			out.Spec.VolumeName = pv.Name
			metav1.SetMetaDataAnnotation(&out.ObjectMeta, storagehelpers.AnnBoundByController, "yes")
		}
		metav1.SetMetaDataAnnotation(&out.ObjectMeta, storagehelpers.AnnBindCompleted, "yes")
		return step{verb: updateClaim, claim: out}, nil
	}
	return claimPhase(c, corev1.ClaimBound, pv), nil
}
