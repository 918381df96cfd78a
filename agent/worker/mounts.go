package worker

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
)

// maxTerminationMessage is how much of what a container wrote at its end is kept.
const maxTerminationMessage = 4096

// mounts are the bind mounts of a container: its volumes, and the file for its last words.
func (w *worker) mounts(pod *corev1.Pod, c podspec.Container, env []string, attempt uint32) ([]seam.Mount, error) {
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
				w.log.Error("a subPath cannot be mounted", "container", c.Name, "volume", m.Name, "error", err)
				// What lies on the node is not the pod's business.
				return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q", m.Name, c.Name)
			}
		}
		propagation, err := podspec.Propagation(m)
		if err != nil {
			return nil, err
		}
		out = append(out, seam.Mount{Source: source, Target: podspec.Absolute(m.MountPath), ReadOnly: m.ReadOnly || podspec.ReadOnlyVolume(pod, m.Name), Propagation: propagation})
	}
	if c.TerminationMessagePath != "" {
		file := w.lastWords(pod, c.Name, attempt)
		if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
			return nil, fmt.Errorf("create the file for the termination message: %w", err)
		}
		if err := os.WriteFile(file, nil, 0o666); err != nil {
			return nil, fmt.Errorf("create the file for the termination message: %w", err)
		}
		if err := os.Chmod(file, 0o666); err != nil { // whatever the umask is
			return nil, fmt.Errorf("create the file for the termination message: %w", err)
		}
		out = append(out, seam.Mount{Source: file, Target: podspec.Absolute(c.TerminationMessagePath)})
	}
	return out, nil
}

func (w *worker) lastWords(pod *corev1.Pod, container string, attempt uint32) string {
	return filepath.Join(w.m.podDir(pod.UID), "containers", container, strconv.Itoa(int(attempt)))
}

// message adds to an ended container what it said at its end.
func (w *worker) message(pod *corev1.Pod, o *seam.Container) {
	if o.State != seam.Exited {
		return
	}
	said, ok := w.messages[o.ID]
	if !ok {
		said = w.readMessage(pod, o)
		w.messages[o.ID] = said
	}
	switch {
	case said == "":
	case o.Message == "":
		o.Message = said
	default:
		o.Message += ": " + said
	}
}

func (w *worker) readMessage(pod *corev1.Pod, o *seam.Container) string {
	c, ok := podspec.Find(pod, o.Name)
	if !ok {
		return ""
	}
	said := ""
	if c.TerminationMessagePath != "" {
		said = head(w.lastWords(pod, o.Name, o.Attempt), maxTerminationMessage)
	}
	if said == "" && c.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError && o.ExitCode != 0 && w.m.TailLog != nil {
		path := o.LogPath
		if path == "" {
			path = LogPath(w.m.Dir, pod, o.Name, o.Attempt)
		}
		said = w.m.TailLog(path)
	}
	return said
}

func head(path string, most int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > most {
		f.Seek(info.Size()-most, io.SeekStart)
	}
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return ""
	}
	return string(b)
}

func (w *worker) unmount(ctx context.Context, pod *corev1.Pod) error {
	if err := w.releaseSubPaths(pod); err != nil {
		return err
	}
	return w.m.Volumes.Unmount(ctx, pod.UID)
}
