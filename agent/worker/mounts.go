package worker

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
)

// mounts are the volumes of a container.
func (w *worker) mounts(pod *corev1.Pod, c podspec.Container, env []string) ([]seam.Mount, error) {
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
		if sub != "" {
			if source, err = w.subPath(pod, c.Name, i, source, sub); err != nil {
				w.log.Error("a subPath cannot be mounted", "container", c.Name, "volume", m.Name, "err", err)
				// What lies on the node is not the pod's business.
				return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q", m.Name, c.Name)
			}
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
			ReadOnly: m.ReadOnly || podspec.ReadOnlyVolume(pod, m.Name), RecursiveReadOnly: recursive,
		})
	}
	return out, nil
}

func (w *worker) unmount(ctx context.Context, pod *corev1.Pod) error {
	if err := w.releaseSubPaths(pod); err != nil {
		return err
	}
	return w.m.Volumes.Unmount(ctx, pod.UID)
}
