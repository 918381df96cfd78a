package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// mountHostPath gives a path of the host itself; its type says what must be there, or is made.
func mountHostPath(ctx context.Context, v volume, s *corev1.VolumeSource) (string, error) {
	return v.hostPath(ctx, s.HostPath)
}

// hostPath may lie on a file server that the host itself has mounted.
func (v volume) hostPath(ctx context.Context, s *corev1.HostPathVolumeSource) (string, error) {
	want := corev1.HostPathUnset
	if s.Type != nil {
		want = *s.Type
	}
	return s.Path, v.Touch(ctx, s.Path, func(context.Context) error {
		if err := makeHostPath(s.Path, want); err != nil {
			return err
		}
		return checkHostPath(s.Path, want)
	})
}

// makeHostPath makes what a type promises to make. With no type a container runtime makes a missing folder, so it is
// made here.
func makeHostPath(path string, t corev1.HostPathType) error {
	switch t {
	case corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate:
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return os.MkdirAll(path, 0o755)
		}
	case corev1.HostPathFileOrCreate:
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return nil // opening what is there may wait for ever (a pipe), or do something (a device)
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_NONBLOCK, 0o644)
		if err != nil {
			return err
		}
		return f.Close()
	}
	return nil
}

// checkHostPath refuses a path of another type, in kubelet's words.
func checkHostPath(path string, t corev1.HostPathType) error {
	if t == corev1.HostPathUnset {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	is := func(m fs.FileMode) bool { return err == nil && info.Mode()&fs.ModeType == m }
	ok, what := true, ""
	switch t {
	case corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory:
		ok, what = is(fs.ModeDir), "directory"
	case corev1.HostPathFileOrCreate, corev1.HostPathFile:
		ok, what = is(0), "file"
	case corev1.HostPathSocket:
		ok, what = is(fs.ModeSocket), "socket file"
	case corev1.HostPathCharDev:
		ok, what = is(fs.ModeDevice|fs.ModeCharDevice), "character device"
	case corev1.HostPathBlockDev:
		ok, what = is(fs.ModeDevice), "block device"
	default:
		return fmt.Errorf("%s is an invalid volume type", t)
	}
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", path, what)
	}
	return nil
}
