package storage

import (
	"context"

	corev1 "k8s.io/api/core/v1"
)

// mountImage shows an image's files (KEP-4639). What is mounted stays when another image gets the name.
func mountImage(_ context.Context, v volume, s *corev1.VolumeSource) (string, error) {
	if err := makeDir(v.path, 0o755); err != nil {
		return "", err
	}
	if there, err := isMountPoint(v.path); err != nil || there {
		return v.path, err
	}
	return v.path, v.objects.ShowImage(s.Image.Reference, v.path)
}
