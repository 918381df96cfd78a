package storage

import (
	"context"
	"fmt"
	"io/fs"

	corev1 "k8s.io/api/core/v1"
)

// mountEmptyDir gives a folder of the pod's own: on the card, or in memory when the medium says so.
func mountEmptyDir(_ context.Context, v volume, s *corev1.VolumeSource) (string, error) {
	const mode = 0o777
	switch m := s.EmptyDir.Medium; m {
	case corev1.StorageMediumDefault:
		if err := makeDir(v.path, mode); err != nil {
			return "", err
		}
	case corev1.StorageMediumMemory:
		var size int64
		if q := s.EmptyDir.SizeLimit; q != nil {
			size = q.Value()
		}
		if err := mountTmpfs(v.path, size, mode); err != nil {
			return "", err
		}
	default:
		return "", fmt.Errorf("emptyDir.medium %q is not supported on this node: leave it empty, or use Memory", m)
	}
	return v.path, v.setGroup(v.path, groupWrites)
}

// setGroup gives a folder to the pod's fsGroup.
func (v volume) setGroup(dir string, may fs.FileMode) error {
	if c := v.pod.Spec.SecurityContext; c != nil && c.FSGroup != nil {
		return own(dir, *c.FSGroup, may)
	}
	return nil
}
