package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/component-helpers/storage/ephemeral"
)

const (
	protection = "kubernetes.io/pvc-protection"
	// taken begins the name of a pod's record that it has a claim for itself; no volume is called so.
	taken = ".alone-"
)

// mountClaim gives what the volume bound to a claim is: a path of this node, or an export.
func mountClaim(ctx context.Context, v volume, s *corev1.VolumeSource) (string, error) {
	return v.mountClaimed(ctx, s.PersistentVolumeClaim.ClaimName)
}

// mountEphemeral gives what the claim that was made for this volume alone is bound to.
func mountEphemeral(ctx context.Context, v volume, s *corev1.VolumeSource) (string, error) {
	name := ephemeral.VolumeClaimName(v.pod, &corev1.Volume{Name: v.name, VolumeSource: *s})
	if claim, ok := v.objects.PersistentVolumeClaim(v.pod.Namespace, name); ok {
		if err := ephemeral.VolumeIsForPod(v.pod, claim); err != nil {
			return "", err // somebody's claim happens to be called so
		}
	}
	return v.mountClaimed(ctx, name)
}

func (v volume) mountClaimed(ctx context.Context, name string) (string, error) {
	claim, ok := v.objects.PersistentVolumeClaim(v.pod.Namespace, name)
	if !ok {
		return "", fmt.Errorf("persistentvolumeclaim %q not found", name)
	}
	// One that is protected outlives its deletion until its last pod is gone.
	if claim.DeletionTimestamp != nil && !slices.Contains(claim.Finalizers, protection) {
		return "", errors.New("PVC is being deleted")
	}
	if claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "" {
		return "", fmt.Errorf("PVC %s/%s is not bound", v.pod.Namespace, name)
	}
	if claim.Spec.VolumeMode != nil && *claim.Spec.VolumeMode == corev1.PersistentVolumeBlock {
		return "", fmt.Errorf("PVC %s/%s has volumeMode Block, which is not supported: use Filesystem", v.pod.Namespace, name)
	}
	pv, ok := v.objects.PersistentVolume(claim.Spec.VolumeName)
	if !ok {
		return "", fmt.Errorf("persistentvolume %q not found", claim.Spec.VolumeName)
	}
	if ref := pv.Spec.ClaimRef; ref == nil || ref.UID != claim.UID {
		return "", fmt.Errorf("PV %s is bound to another claim", pv.Name)
	}
	if slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
		if err := v.take(claim.UID); err != nil {
			return "", err
		}
	}
	return v.mountPersistent(ctx, pv)
}

// take records in the pod's folder that it alone has a claim; the record goes with the folder. The scheduler sees to it for pods that
// it places, not for one that names its node itself.
func (v volume) take(claim types.UID) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	pods, err := os.ReadDir(v.dir)
	if err != nil {
		return err
	}
	record := taken + string(claim)
	for _, pod := range pods {
		if pod.Name() == string(v.pod.UID) {
			continue
		}
		if _, err := os.Lstat(filepath.Join(v.dir, pod.Name(), record)); err == nil {
			return errors.New("volume uses the ReadWriteOncePod access mode and is already in use by another pod")
		}
	}
	return os.WriteFile(filepath.Join(v.podDir(v.pod.UID), record), nil, 0o600)
}

func (v volume) mountPersistent(ctx context.Context, pv *corev1.PersistentVolume) (string, error) {
	if err := v.here(pv); err != nil {
		return "", err
	}
	if f, ok := v.objects.Provisioned(pv); ok {
		return v.mountFolder(ctx, f, pv)
	}
	switch s := pv.Spec.PersistentVolumeSource; {
	case s.HostPath != nil:
		return v.hostPath(ctx, s.HostPath)
	case s.Local != nil:
		return v.mountLocal(ctx, s.Local.Path)
	case s.NFS != nil:
		return v.mountExport(ctx, s.NFS, pv.Spec.MountOptions)
	default:
		return "", missing(sourceName(s))
	}
}

// elsewhereError is why a volume cannot be had on this node.
type elsewhereError struct {
	volume string
	err    error
}

func (e *elsewhereError) Error() string {
	return fmt.Sprintf("MountVolume.NodeAffinity check failed for volume %q : %v", e.volume, e.err)
}

// here refuses a volume of other nodes. A pod that names its node itself was not asked by the scheduler; it would be given an empty
// folder, or one of this node that happens to be called so, in the place of its data.
func (v volume) here(pv *corev1.PersistentVolume) error {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return nil
	}
	node := v.objects.Node()
	if node == nil {
		return errors.New("the labels of this node are not known yet")
	}
	matches, err := nodeaffinity.NewLazyErrorNodeSelector(pv.Spec.NodeAffinity.Required).Match(node)
	if err == nil && !matches {
		err = errors.New("no matching NodeSelectorTerms")
	}
	if err != nil {
		return &elsewhereError{pv.Name, err}
	}
	return nil
}

// mountLocal gives a folder of this node, which the pod's fsGroup gets, other than that of a hostPath.
func (v volume) mountLocal(ctx context.Context, path string) (string, error) {
	return path, v.Touch(ctx, path, func(context.Context) error {
		switch info, err := os.Stat(path); {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("path %q does not exist: a local volume is a folder that you make, or mount, on its node", path)
		case err != nil:
			return err
		case !info.IsDir():
			return fmt.Errorf("path %q is not a folder: a local volume is one, of its node", path)
		}
		return v.setGroupOnce(path)
	})
}
