package worker

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
)

// mounts are the volumes of a container.
func (w *worker) mounts(ctx context.Context, pod *corev1.Pod, c podspec.Container, env []string) ([]seam.Mount, error) {
	var out []seam.Mount
	for i, m := range c.VolumeMounts {
		source, ok := w.volumes[m.Name]
		if !ok {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", m.Name, c.Name)
		}
		sub, err := podspec.SubPath(m, env)
		if err != nil {
			return nil, err
		}
		at := place{container: c.Name, volume: m.Name, index: i, source: source, sub: sub}
		if source, err = w.source(ctx, pod, at); err != nil {
			return nil, err
		}
		propagation, err := podspec.Propagation(m)
		if err != nil {
			return nil, err
		}
		recursive, err := podspec.RecursiveReadOnly(m)
		if err != nil {
			return nil, fmt.Errorf("failed to resolve recursive read-only mode: %w", err)
		}
		out = append(out, seam.Mount{
			Source: source, Target: podspec.Absolute(m.MountPath), Propagation: propagation,
			ReadOnly: m.ReadOnly || podspec.ReadOnlyVolume(pod, m.Name), RecursiveReadOnly: recursive, NoExec: podspec.ShowsImage(pod, m.Name),
		})
	}
	return out, nil
}

// place is where a container has a volume, or a part of it.
type place struct {
	container, volume string
	index             int // of the container's mounts
	source, sub       string
}

// source is what is mounted. A volume whose file server does not answer is found out here: whatever looked at it later would hang.
func (w *worker) source(ctx context.Context, pod *corev1.Pod, at place) (string, error) {
	var sub string
	var err error
	touch := w.m.Volumes.Touch(ctx, at.source, func(ctx context.Context) error {
		if at.sub == "" {
			return nil
		}
		var path string
		if path, err = w.subPath(ctx, pod, at); err == nil {
			sub = path
		}
		return nil
	})
	switch {
	case touch != nil: // what the other goroutine may still write is not read
		return "", fmt.Errorf("volume %q: %w; it is tried again", at.volume, touch)
	case err == nil && at.sub == "":
		return at.source, nil
	case err == nil:
		return sub, nil
	}
	w.log.Error("a subPath cannot be mounted", "container", at.container, "volume", at.volume, "err", err)
	return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q%s", at.volume, at.container, whyNot(err))
}

// whyNot is what a pod is told of a subPath that it cannot have: what its own volume holds, and no more of the node.
func whyNot(err error) string {
	const mend = "; mend subPath, or what is in the volume"
	switch {
	case errors.Is(err, os.ErrPermission): // root may do anything but on a file server
		return ": the file server does not let this node's root make it (for NFS: no_root_squash, or make the folder there)"
	case errors.Is(err, unix.EXDEV):
		return ": the path leads out of the volume" + mend
	case errors.Is(err, unix.ELOOP):
		return ": the path has a link that leads in a circle" + mend
	case errors.Is(err, unix.ENOTDIR):
		return ": the path leads through a file" + mend
	case errors.Is(err, unix.ENOENT):
		return ": the path has a link that leads nowhere" + mend
	case errors.Is(err, unix.ENOSPC):
		return ": the volume has no room for it"
	}
	return ""
}

func (w *worker) unmount(ctx context.Context, pod *corev1.Pod) error {
	if err := w.releaseSubPaths(pod); err != nil {
		return err
	}
	return w.m.Volumes.Unmount(ctx, pod.UID)
}
