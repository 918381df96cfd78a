package storage

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// mountEmptyDir gives a folder of the pod's own: on the card, or in memory when the medium says so.
func mountEmptyDir(_ context.Context, v volume, s *corev1.VolumeSource) (string, error) {
	switch m := s.EmptyDir.Medium; m {
	case corev1.StorageMediumDefault:
		if err := makeDir(v.path, 0o777); err != nil {
			return "", err
		}
	case corev1.StorageMediumMemory:
		if err := mountTmpfs(v.path, v.memory(s.EmptyDir.SizeLimit)); err != nil {
			return "", err
		}
	default:
		return "", fmt.Errorf("emptyDir.medium %q is not supported on this node: leave it empty, or use Memory", m)
	}
	return v.path, v.setGroupOnce(v.path)
}

// memory is how large a folder in memory may become: what the pod may use, or less if its manifest says so. Who writes more is told
// that there is no room, and is not killed for it.
func (v volume) memory(limit *resource.Quantity) int64 {
	size := v.objects.Memory(v.pod)
	if limit != nil && limit.Value() > 0 && (size == 0 || limit.Value() < size) {
		size = limit.Value()
	}
	return size
}

// setGroup gives a folder to the pod's fsGroup.
func (v volume) setGroup(dir string, may fs.FileMode) error {
	if g := v.fsGroup(); g != nil {
		return own(dir, *g, may)
	}
	return nil
}

func (v volume) fsGroup() *int64 {
	if c := v.pod.Spec.SecurityContext; c != nil {
		return c.FSGroup
	}
	return nil
}

// setGroupOnce gives a folder in which the pod writes to its fsGroup, before its first container starts. Later it must not: a
// program that has made something private (a database its data, 0700) would not start on it again. What was done is noted
// beside the volumes, after it was done.
func (v volume) setGroupOnce(dir string) error {
	g := v.fsGroup()
	if g == nil {
		return nil
	}
	note := filepath.Join(v.podDir(v.pod.UID), owned, v.name)
	if _, err := os.Lstat(note); err == nil {
		return nil
	}
	if !v.keepsGroup(dir, *g) {
		if err := own(dir, *g, groupWrites); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(note), 0o750); err != nil {
		return err
	}
	return os.WriteFile(note, nil, 0o600)
}

// owned is the folder of notes; no volume can be called so.
const owned = ".owned"

// keepsGroup is fsGroupChangePolicy: OnRootMismatch leaves a tree alone whose root is as it should be.
func (v volume) keepsGroup(dir string, group int64) bool {
	p := v.pod.Spec.SecurityContext.FSGroupChangePolicy
	if p == nil || *p != corev1.FSGroupChangeOnRootMismatch {
		return false
	}
	info, err := os.Stat(dir)
	if err != nil {
		return false
	}
	const want = groupWrites | 0o110
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && int64(s.Gid) == group && info.Mode()&want == want && info.Mode()&fs.ModeSetgid != 0
}
