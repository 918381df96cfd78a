package podspec

import (
	"fmt"
	"path"
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
