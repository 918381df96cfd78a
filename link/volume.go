package link

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
)

// Provisioners of StorageClasses that make volumes on nodes: a folder of one node, or a folder of an NFS server's export.
const (
	LocalProvisioner = "bramble.dev/local"
	NFSProvisioner   = "bramble.dev/nfs"
)

const (
	// LocalVolumesAnnotation of a Node is the folder in which it keeps the volumes of LocalProvisioner.
	LocalVolumesAnnotation = "bramble.dev/local-volumes"
	// VolumeNodeAnnotation of a PersistentVolume is the node that removes what is in it, when its time has come.
	VolumeNodeAnnotation = "bramble.dev/node"
	// VolumeRemovedAnnotation of a PersistentVolume says that a node has removed what was in it.
	VolumeRemovedAnnotation = "bramble.dev/removed"
	// VolumeModeAnnotation of a PersistentVolume is the mode that its folder is made with, in octal.
	VolumeModeAnnotation = "bramble.dev/folder-mode"
	// VolumeFinalizer keeps a PersistentVolume until a node has removed what was in it.
	VolumeFinalizer = "bramble.dev/volume"
	// provisionedBy is upstream's annotation of volumes that were made for a claim.
	provisionedBy = "pv.kubernetes.io/provisioned-by"
)

// ClaimOf is the name of the claim that a volume of a pod is: the one that it names, or the one that is made for it alone. The
// server sends the node the claims that it finds by this.
func ClaimOf(pod *corev1.Pod, v *corev1.Volume) (name string, ok bool) {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName, true
	case v.Ephemeral != nil:
		return ephemeral.VolumeClaimName(pod, v), true
	}
	return "", false
}

// provisioned is how volumes that were made for a claim are named: by the claim's UID.
var provisioned = regexp.MustCompile(`^pvc-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// Provisioned says whether a node makes and removes the folder of a volume, and by which provisioner. What a volume's path says
// must agree with its name, which holds the claim's UID, so that no folder is ever made or removed that a person made.
func Provisioned(pv *corev1.PersistentVolume) (provisioner string, ok bool) {
	if !provisioned.MatchString(pv.Name) {
		return "", false
	}
	switch by := pv.Annotations[provisionedBy]; {
	case by == LocalProvisioner && pv.Spec.Local != nil:
		return by, path.Base(pv.Spec.Local.Path) == pv.Name
	case by == NFSProvisioner && pv.Spec.NFS != nil:
		folder := path.Base(pv.Spec.NFS.Path)
		return by, len(folder) >= len(pv.Name) && folder[len(folder)-len(pv.Name):] == pv.Name
	}
	return "", false
}

// Removes is the node that is to remove what is in a volume, or "".
func Removes(pv *corev1.PersistentVolume) string {
	if _, ok := Provisioned(pv); !ok || pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete ||
		pv.Status.Phase != corev1.VolumeReleased && pv.Status.Phase != corev1.VolumeFailed ||
		pv.Annotations[VolumeRemovedAnnotation] != "" || !slices.Contains(pv.Finalizers, VolumeFinalizer) {
		return ""
	}
	return pv.Annotations[VolumeNodeAnnotation]
}

// VolumeReport is what became of a volume that a node was to remove; item volumes/<name> of the status set.
type VolumeReport struct {
	UID   types.UID `json:"uid"`
	Error string    `json:"error,omitempty"` // why it is still there; it is tried again
}

// Encode gives the value of an item.
func (r VolumeReport) Encode() ([]byte, error) { return json.Marshal(r) }

// DecodeVolumeReport reads an item.
func DecodeVolumeReport(b []byte) (r VolumeReport, err error) {
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("link: report of a volume: %w", err)
	}
	return r, nil
}
