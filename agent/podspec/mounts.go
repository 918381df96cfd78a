package podspec

import (
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// SubPath is the path below its volume that a mount shows; "" is the volume itself.
func SubPath(m corev1.VolumeMount, env []string) (string, error) {
	sub := m.SubPath
	if m.SubPathExpr != "" {
		lookup := Lookup(env)
		var missing []string
		sub = Expand(m.SubPathExpr, func(name string) (string, bool) {
			v, ok := lookup(name)
			if !ok || v == "" {
				missing = append(missing, name)
			}
			return v, true
		})
		if len(missing) > 0 {
			return "", fmt.Errorf("missing value for %s", strings.Join(unique(missing), ", "))
		}
	}
	switch {
	case sub == "":
		return "", nil
	case path.IsAbs(sub):
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", sub)
	}
	for part := range strings.SplitSeq(sub, "/") {
		if part == ".." {
			return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", sub)
		}
	}
	return sub, nil
}

// Propagation is how mounts pass between a mount of a volume and the host.
func Propagation(m corev1.VolumeMount) (corev1.MountPropagationMode, error) {
	if m.MountPropagation == nil {
		return corev1.MountPropagationNone, nil
	}
	switch p := *m.MountPropagation; p {
	case corev1.MountPropagationNone, corev1.MountPropagationHostToContainer, corev1.MountPropagationBidirectional:
		return p, nil
	default:
		return "", fmt.Errorf("invalid MountPropagation mode: %q", p)
	}
}

// RecursiveReadOnly says whether what is mounted below a volume is read-only too.
func RecursiveReadOnly(m corev1.VolumeMount) (bool, error) {
	if m.RecursiveReadOnly == nil || *m.RecursiveReadOnly == corev1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	if !m.ReadOnly {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not read-only", m.Name)
	}
	if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not compatible with propagation %q", m.Name, *m.MountPropagation)
	}
	return true, nil
}

// Absolute is a path in a container; one without a leading slash is taken from its root.
func Absolute(p string) string {
	if path.IsAbs(p) {
		return p
	}
	return "/" + p
}

// volumeImage is the prefix of the name under which a volume's image is fetched; no container's name has a slash.
const volumeImage = "volumes/"

// VolumeImages yields what must be fetched for the pod's image volumes (KEP-4639), as containers that are never started.
func VolumeImages(pod *corev1.Pod) iter.Seq[Container] {
	return func(yield func(Container) bool) {
		for i := range pod.Spec.Volumes {
			if c, ok := imageOf(&pod.Spec.Volumes[i]); ok && !yield(c) {
				return
			}
		}
	}
}

func imageOf(v *corev1.Volume) (Container, bool) {
	if v.Image == nil {
		return Container{}, false
	}
	return Container{Container: &corev1.Container{Name: volumeImage + v.Name, Image: v.Image.Reference, ImagePullPolicy: v.Image.PullPolicy}, Kind: Volume}, true
}

// Fetched returns what an image is fetched for: a container, or a volume.
func Fetched(pod *corev1.Pod, name string) (Container, bool) {
	for c := range VolumeImages(pod) {
		if c.Name == name {
			return c, true
		}
	}
	return Find(pod, name)
}

// Shows says whether a container mounts the volume that an image was to be fetched for.
func Shows(c Container, fetched string) bool {
	return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return volumeImage+m.Name == fetched })
}

// ShowsImage says whether a volume is an image's.
func ShowsImage(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == name && v.Image != nil })
}

// ReadOnlyVolume says whether a volume can only be read, however it is mounted.
func ReadOnlyVolume(pod *corev1.Pod, name string) bool {
	for _, v := range pod.Spec.Volumes {
		if v.Name != name {
			continue
		}
		switch {
		case v.ConfigMap != nil, v.Secret != nil, v.DownwardAPI != nil, v.Projected != nil, v.Image != nil:
			return true
		case v.NFS != nil:
			return v.NFS.ReadOnly
		case v.PersistentVolumeClaim != nil:
			return v.PersistentVolumeClaim.ReadOnly
		}
	}
	return false
}
