package persistentvolume

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storagehelpers "k8s.io/component-helpers/storage/volume"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
	"bramble.dev/server/controllers/nodes"
)

// planVolume decides the next step of a volume.
func planVolume(pv *corev1.PersistentVolume, w world) step {
	ref := pv.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		if pv.DeletionTimestamp != nil {
			return letGo(pv)
		}
		s := volumePhase(pv, corev1.VolumeAvailable, "")
		if ref != nil {
			s.also = ref // it is reserved for that claim, which may not know
		}
		return s
	}
	c := w.claim(ref.Namespace, ref.Name)
	switch {
	case c == nil || c.UID != ref.UID:
		return release(pv, w)
	case c.Spec.VolumeName == pv.Name:
		return volumePhase(pv, corev1.VolumeBound, "")
	case c.Spec.VolumeName == "":
		if storagehelpers.CheckVolumeModeMismatches(&c.Spec, &pv.Spec) {
			return step{}.
				tells(warning(pv, volumeMismatch, fmt.Sprintf("Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", c.Name))).
				tells(warning(c, volumeMismatch, fmt.Sprintf("Cannot bind PersistentVolume %q to requested PersistentVolumeClaim due to incompatible volumeMode.", pv.Name)))
		}
		return step{also: ref}
	case metav1.HasAnnotation(pv.ObjectMeta, storagehelpers.AnnDynamicallyProvisioned) && pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return release(pv, w) // it was made for a claim that took another
	}
	return unbind(pv)
}

// unbind gives back a volume whose claim took another.
func unbind(pv *corev1.PersistentVolume) step {
	out := pv.DeepCopy()
	if metav1.HasAnnotation(pv.ObjectMeta, storagehelpers.AnnBoundByController) {
		out.Spec.ClaimRef = nil
		delete(out.Annotations, storagehelpers.AnnBoundByController)
	} else {
		out.Spec.ClaimRef.UID = "" // a person reserved it
	}
	return step{verb: updateVolume, volume: out}
}

// release does with a volume whose claim is gone what its policy says.
func release(pv *corev1.PersistentVolume, w world) step {
	if pv.Status.Phase != corev1.VolumeReleased && pv.Status.Phase != corev1.VolumeFailed {
		return volumePhase(pv, corev1.VolumeReleased, "")
	}
	switch pv.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimDelete:
		return remove(pv, w)
	case corev1.PersistentVolumeReclaimRecycle:
		if pv.Status.Phase != corev1.VolumeFailed {
			return volumePhase(pv, corev1.VolumeFailed, "No recycler plugin found for the volume!").
				tells(warning(pv, volumeFailedRecycle, "No recycler plugin found for the volume!"))
		}
	}
	if pv.DeletionTimestamp != nil {
		return letGo(pv)
	}
	return step{}
}

// remove has a node remove what is in the volume, and then removes the volume.
func remove(pv *corev1.PersistentVolume, w world) step {
	provisioner, ours := link.Provisioned(pv)
	switch {
	case !ours:
		if pv.DeletionTimestamp != nil {
			return letGo(pv)
		}
		if pv.Status.Phase == corev1.VolumeFailed || metav1.HasAnnotation(pv.ObjectMeta, storagehelpers.AnnDynamicallyProvisioned) {
			return step{} // whoever made it removes it
		}
		return volumePhase(pv, corev1.VolumeFailed, undeletable).tells(warning(pv, volumeFailedDelete, undeletable))
	case pv.Annotations[link.VolumeRemovedAnnotation] != "":
		if pv.DeletionTimestamp == nil {
			return step{verb: deleteVolume, volume: pv}
		}
		return letGo(pv)
	case !slices.Contains(pv.Finalizers, link.VolumeFinalizer):
		if pv.DeletionTimestamp != nil {
			return step{} // too late to keep it
		}
		out := pv.DeepCopy()
		out.Finalizers = append(out.Finalizers, link.VolumeFinalizer)
		return step{verb: updateVolume, volume: out}
	case provisioner == link.NFSProvisioner:
		return assign(pv, w)
	}
	return orphaned(pv, w)
}

// orphaned says of a volume whose node was taken out of the cluster that nobody
// removes it. Whoever deletes it then has decided so.
func orphaned(pv *corev1.PersistentVolume, w world) step {
	name := pv.Annotations[link.VolumeNodeAnnotation]
	switch {
	case w.node(name) != nil:
		return step{} // it does when it is there
	case pv.DeletionTimestamp != nil:
		return letGo(pv)
	case pv.Status.Phase == corev1.VolumeFailed:
		return step{}
	}
	message := fmt.Sprintf("what is in it is on node %s, which is not in the cluster any more: it is removed if that board joins again; if it does not, delete the volume (kubectl delete pv %s)", name, pv.Name)
	return volumePhase(pv, corev1.VolumeFailed, message).tells(warning(pv, volumeFailedDelete, message))
}

const undeletable = "no driver of Bramble made this volume, so nobody removes what is in it: do that by hand and delete the volume, or keep it with persistentVolumeReclaimPolicy Retain"

// assign finds a node that can reach the export: the one that was asked last, as
// long as it is there.
func assign(pv *corev1.PersistentVolume, w world) step {
	if n := w.node(pv.Annotations[link.VolumeNodeAnnotation]); n != nil && nodes.IsReady(n) {
		return step{}
	}
	for _, n := range w.nodes() {
		if nodes.IsReady(n) {
			out := pv.DeepCopy()
			metav1.SetMetaDataAnnotation(&out.ObjectMeta, link.VolumeNodeAnnotation, n.Name)
			return step{verb: updateVolume, volume: out}
		}
	}
	return step{}
}

// letGo removes our finalizer from a volume that somebody deleted and that
// keeps, or no longer has, what is in it.
func letGo(pv *corev1.PersistentVolume) step {
	at := slices.Index(pv.Finalizers, link.VolumeFinalizer)
	if at < 0 {
		return step{}
	}
	out := pv.DeepCopy()
	out.Finalizers = slices.Delete(out.Finalizers, at, at+1)
	return step{verb: updateVolume, volume: out}
}
