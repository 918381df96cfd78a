package persistentvolume

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storagehelpers "k8s.io/component-helpers/storage/volume"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// Reasons of events, word for word upstream's.
const (
	failedBinding         = "FailedBinding"
	volumeMismatch        = "VolumeMismatch"
	waitForFirstConsumer  = "WaitForFirstConsumer"
	waitForPodScheduled   = "WaitForPodScheduled"
	externalProvisioning  = "ExternalProvisioning"
	provisioningFailed    = "ProvisioningFailed"
	provisioningSucceeded = "ProvisioningSucceeded"
	externalExpanding     = "ExternalExpanding"
	volumeFailedRecycle   = "VolumeFailedRecycle"
	volumeFailedDelete    = "VolumeFailedDelete"
)

// planClaim decides the next step of a claim.
func planClaim(c *corev1.PersistentVolumeClaim, w world) (step, error) {
	if metav1.HasAnnotation(c.ObjectMeta, storagehelpers.AnnBindCompleted) {
		return planBound(c, w)
	}
	if c.Spec.VolumeName != "" {
		return planRequested(c, w)
	}
	if c.DeletionTimestamp != nil {
		return step{}, nil // it finds nothing any more
	}
	pv, err := bestMatch(c, w.volumes(), delayed(c, w))
	if err != nil {
		return step{}, err
	}
	if pv != nil {
		return bind(pv, c)
	}
	return planUnmatched(c, w)
}

// delayed says whether the claim waits for a pod.
func delayed(c *corev1.PersistentVolumeClaim, w world) bool {
	class := w.class(storagehelpers.GetPersistentVolumeClaimClass(c))
	return class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// bestMatch is the smallest volume that fits, of those that can do what is
// asked for and the least beyond it.
func bestMatch(c *corev1.PersistentVolumeClaim, volumes []*corev1.PersistentVolume, delay bool) (*corev1.PersistentVolume, error) {
	var able []*corev1.PersistentVolume
	for _, pv := range volumes {
		if storagehelpers.CheckAccessModes(c, pv) {
			able = append(able, pv)
		}
	}
	slices.SortStableFunc(able, func(a, b *corev1.PersistentVolume) int { return len(a.Spec.AccessModes) - len(b.Spec.AccessModes) })
	for len(able) > 0 {
		n := 1
		for n < len(able) && len(able[n].Spec.AccessModes) == len(able[0].Spec.AccessModes) {
			n++
		}
		pv, err := storagehelpers.FindMatchingVolume(c, able[:n], nil, nil, delay, true)
		if pv != nil || err != nil {
			return pv, err
		}
		able = able[n:]
	}
	return nil, nil
}

// planUnmatched goes on with a claim for which there is no volume.
func planUnmatched(c *corev1.PersistentVolumeClaim, w world) (step, error) {
	if !storagehelpers.PersistentVolumeClaimHasClass(c) {
		if class := w.defaultClass(); class != nil {
			out := c.DeepCopy()
			out.Spec.StorageClassName = &class.Name
			return step{verb: updateClaim, claim: out}, nil
		}
	}
	switch {
	case delayed(c, w) && !storagehelpers.IsDelayBindingProvisioning(c):
		if err := hopeless(c, w); err != nil {
			return claimPhase(c, corev1.ClaimPending, nil).tells(warning(c, provisioningFailed, err.Error())), nil
		}
		return claimPhase(c, corev1.ClaimPending, nil).tells(waiting(c, w)), nil
	case storagehelpers.GetPersistentVolumeClaimClass(c) != "":
		return provision(c, w)
	}
	return claimPhase(c, corev1.ClaimPending, nil).tells(normal(c, failedBinding, "no persistent volumes available for this claim and no storage class is set")), nil
}

// hopeless says what is wrong with a claim for which nothing will be there when
// its pod comes: who makes it learns it at once.
func hopeless(c *corev1.PersistentVolumeClaim, w world) error {
	class := w.class(storagehelpers.GetPersistentVolumeClaimClass(c))
	err := Impossible(c, class)
	if err == nil {
		return nil
	}
	if pv, _ := bestMatch(c, w.volumes(), false); pv != nil {
		return nil // made by hand: it waits for a pod like any other
	}
	return fmt.Errorf("Failed to provision volume with StorageClass %q: %w", class.Name, err)
}

func waiting(c *corev1.PersistentVolumeClaim, w world) event {
	switch names := w.waitingPods(c); len(names) {
	case 0:
		return normal(c, waitForFirstConsumer, "waiting for first consumer to be created before binding")
	case 1:
		return normal(c, waitForPodScheduled, fmt.Sprintf("waiting for pod %s to be scheduled", names[0]))
	default:
		return normal(c, waitForPodScheduled, fmt.Sprintf("waiting for pods %s to be scheduled", strings.Join(names, ",")))
	}
}

// planRequested goes on with a claim that names a volume.
func planRequested(c *corev1.PersistentVolumeClaim, w world) (step, error) {
	pv := w.volume(c.Spec.VolumeName)
	switch {
	case pv == nil:
		return claimPhase(c, corev1.ClaimPending, nil), nil
	case pv.Spec.ClaimRef == nil:
		if err := satisfies(pv, c); err != nil {
			return claimPhase(c, corev1.ClaimPending, nil).tells(warning(c, volumeMismatch, fmt.Sprintf("Cannot bind to requested volume %q: %s", pv.Name, err))), nil
		}
		return bind(pv, c)
	case storagehelpers.IsVolumeBoundToClaim(pv, c):
		return bind(pv, c)
	}
	return claimPhase(c, corev1.ClaimPending, nil).tells(warning(c, failedBinding, fmt.Sprintf("volume %q already bound to a different claim.", pv.Name))), nil
}

// satisfies says why a volume that a claim asks for by name is not for it.
func satisfies(pv *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) error {
	has, asked := pv.Spec.Capacity[corev1.ResourceStorage], c.Spec.Resources.Requests[corev1.ResourceStorage]
	attributes := func(name *string) string {
		if name == nil {
			return ""
		}
		return *name
	}
	switch {
	case pv.DeletionTimestamp != nil:
		return fmt.Errorf("the volume is marked for deletion %q", pv.Name)
	case has.Cmp(asked) < 0:
		return errors.New("requested PV is too small")
	case storagehelpers.GetPersistentVolumeClass(pv) != storagehelpers.GetPersistentVolumeClaimClass(c):
		return errors.New("storageClassName does not match")
	case attributes(pv.Spec.VolumeAttributesClassName) != attributes(c.Spec.VolumeAttributesClassName):
		return errors.New("volumeAttributesClassName does not match")
	case storagehelpers.CheckVolumeModeMismatches(&c.Spec, &pv.Spec):
		return errors.New("incompatible volumeMode")
	case !storagehelpers.CheckAccessModes(c, pv):
		return errors.New("incompatible accessMode")
	}
	return nil
}

// planBound looks after a claim that was bound.
func planBound(c *corev1.PersistentVolumeClaim, w world) (step, error) {
	if c.Spec.VolumeName == "" {
		return lost(c, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"), nil
	}
	pv := w.volume(c.Spec.VolumeName)
	switch {
	case pv == nil:
		return lost(c, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"), nil
	case pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.UID != c.UID && !storagehelpers.IsVolumeBoundToClaim(pv, c):
		return lost(c, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly"), nil
	}
	if s, err := bind(pv, c); err != nil || s.verb != rest {
		return s, err
	}
	return grow(c, pv), nil
}
