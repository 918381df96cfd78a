package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// subPath binds a path below a volume to a place that the pod's containers cannot reach, and
// returns that. The path may hold symbolic links that a container made: it is resolved by the
// kernel, which refuses to leave the volume, and what it led to is bound by its descriptor, so that
// it cannot be exchanged in between.
func (w *worker) subPath(ctx context.Context, pod *corev1.Pod, at place) (string, error) {
	volume, sub := at.source, at.sub
	root, err := unix.Open(volume, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open the volume: %w", err)
	}
	defer unix.Close(root)
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(root, sub, how)
	if errors.Is(err, unix.ENOENT) {
		if err := makeBeneath(volume, sub); err != nil {
			return "", err
		}
		fd, err = unix.Openat2(root, sub, how)
	}
	if err != nil {
		return "", fmt.Errorf("open %q below the volume: %w", sub, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", fmt.Errorf("look at %q below the volume: %w", sub, err)
	}
	if ctx.Err() != nil {
		return "", ctx.Err() // nobody waits for it any more, and its folder may be gone
	}
	target := filepath.Join(w.subPaths(pod), at.container, strconv.Itoa(at.index))
	if err := releaseMount(target); err != nil {
		return "", err
	}
	if err := makePoint(target, st.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return "", err
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("bind %q: %w", sub, err)
	}
	return target, nil
}

func (w *worker) subPaths(pod *corev1.Pod) string {
	return filepath.Join(w.m.podDir(pod.UID), "subpaths")
}

// makeBeneath makes a folder below the volume with the volume's own mode, without following a link
// out of it.
func makeBeneath(volume, sub string) error {
	info, err := os.Stat(volume)
	if err != nil {
		return fmt.Errorf("look at the volume: %w", err)
	}
	root, err := os.OpenRoot(volume)
	if err != nil {
		return fmt.Errorf("open the volume: %w", err)
	}
	defer root.Close()
	path := ""
	for part := range strings.SplitSeq(filepath.Clean(sub), "/") {
		path = filepath.Join(path, part)
		switch err := root.Mkdir(path, 0o750); {
		case err == nil:
			// The volume's mode, set-group-ID bit included, whatever the umask is.
			if err := root.Chmod(path, info.Mode()); err != nil {
				return fmt.Errorf("create %q below the volume: %w", sub, err)
			}
		case !errors.Is(err, os.ErrExist):
			return fmt.Errorf("create %q below the volume: %w", sub, err)
		}
	}
	return nil
}

// makePoint makes the mount point.
func makePoint(target string, dir bool) error {
	if dir {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// releaseMount undoes a bind of an earlier start of the container.
func releaseMount(target string) error {
	for {
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue // one may lie above another
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("remove an old mount point: %w", err)
			}
			return nil
		default:
			return fmt.Errorf("undo an old bind of a subPath: %w", err)
		}
	}
}

// releaseSubPaths undoes all binds of a pod, before its volumes go and its folder is removed.
func (w *worker) releaseSubPaths(pod *corev1.Pod) error {
	found, err := filepath.Glob(filepath.Join(w.subPaths(pod), "*", "*"))
	if err != nil {
		return err
	}
	sort.Strings(found)
	var errs []error
	for _, target := range found {
		errs = append(errs, releaseMount(target))
	}
	return errors.Join(errs...)
}
