package kubelet

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/status"
	"bramble.dev/agent/worker"
)

// flusher sends what is written at once: whoever follows a log waits for it.
type flusher struct {
	w http.ResponseWriter
	f http.Flusher
}

func (f flusher) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	if f.f != nil {
		f.f.Flush()
	}
	return n, err
}

func (a *api) logs(w http.ResponseWriter, r *http.Request) {
	name, podName := r.PathValue("container"), r.PathValue("pod")
	o, previous, stream, err := logOptions(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	v, ok := a.Pods.Pod(r.PathValue("namespace"), podName, "")
	if !ok {
		http.Error(w, fmt.Sprintf("pod %q does not exist", podName), http.StatusNotFound)
		return
	}
	if _, ok := podspec.Find(v.Pod, name); !ok {
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", name, podName), http.StatusNotFound)
		return
	}
	id, attempt, err := logOf(v, name, previous)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	path := a.logPath(v, name, id, attempt)
	if o.Follow {
		o.Ended = a.Runtime.Exited(id)
	} else if !previous {
		awaitFirstLine(r.Context(), v, id, path)
	}
	f, _ := w.(http.Flusher)
	out := flusher{w, f}
	var stdout, stderr io.Writer = out, out
	switch stream {
	case corev1.LogStreamStdout:
		stderr = nil
	case corev1.LogStreamStderr:
		stdout = nil
	}
	w.Header().Set("Content-Type", "text/plain")
	// The header goes out before the first line, so that who follows an idle container is not kept waiting.
	if _, err := out.Write(nil); err != nil {
		return
	}
	if err := a.ReadLog(r.Context(), path, o, stdout, stderr); err != nil && r.Context().Err() == nil {
		a.Logger.Debug("a log could not be read to its end", "path", path, "err", err)
		fmt.Fprintf(out, "failed to read the log: %v\n", err)
	}
}

// firstLine is how long after its start a container is given to say something. Upstream's kubelet reports a container as
// running up to a second after it was started, so that what it prints first is there for whoever waited for that and then
// reads its log; here the report goes out at once.
const firstLine = time.Second

// awaitFirstLine returns when the log has something in it, or the container was started longer ago than that.
func awaitFirstLine(ctx context.Context, v worker.View, id, path string) {
	left := firstLine - time.Since(startOf(v, id))
	if left <= 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, min(left, firstLine)) // the clock may have gone back
	defer cancel()
	for ctx.Err() == nil {
		if f, err := os.Stat(path); err == nil && f.Size() > 0 {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// startOf is when the runtime started a running container; the zero time for any other.
func startOf(v worker.View, id string) time.Time {
	for _, s := range v.Sandboxes {
		for _, c := range s.Containers {
			if c.ID == id && c.State == seam.Running {
				return c.StartedAt
			}
		}
	}
	return time.Time{}
}

// logOptions reads the query of a request for a log.
func logOptions(q url.Values) (o LogOptions, previous bool, stream string, err error) {
	truth := func(key string) bool {
		v, e := strconv.ParseBool(q.Get(key))
		if e != nil && q.Has(key) && q.Get(key) != "" {
			err = fmt.Errorf("invalid value of %s: %q", key, q.Get(key))
		}
		return v || q.Has(key) && q.Get(key) == ""
	}
	number := func(key string, least int64) *int64 {
		if !q.Has(key) {
			return nil
		}
		n, e := strconv.ParseInt(q.Get(key), 10, 64)
		if e != nil || n < least {
			err = fmt.Errorf("invalid value of %s: %q", key, q.Get(key))
		}
		return &n
	}
	o.Follow, o.Timestamps, previous = truth("follow"), truth("timestamps"), truth("previous")
	if tail := q.Get("tail"); tail != "" && tail != "all" {
		q.Set("tailLines", tail)
	}
	o.Tail = number("tailLines", 0)
	if n := number("limitBytes", 1); n != nil {
		o.Limit = *n
	}
	if n := number("sinceSeconds", 1); n != nil {
		o.Since = time.Now().Add(-time.Duration(*n) * time.Second)
	}
	if at := q.Get("sinceTime"); at != "" {
		var e error
		if o.Since, e = time.Parse(time.RFC3339, at); e != nil {
			err = fmt.Errorf("invalid value of sinceTime: %q", at)
		}
	}
	switch stream = q.Get("stream"); stream {
	case "", corev1.LogStreamAll, corev1.LogStreamStdout, corev1.LogStreamStderr:
	default:
		err = fmt.Errorf("invalid stream type %q", stream)
	}
	return o, previous, stream, err
}

// logOf finds the container, and the number of its attempt, whose log is meant.
func logOf(v worker.View, name string, previous bool) (id string, attempt int32, err error) {
	var st corev1.ContainerStatus
	found := false
	for _, list := range [][]corev1.ContainerStatus{v.Status.ContainerStatuses, v.Status.InitContainerStatuses, v.Status.EphemeralContainerStatuses} {
		for _, c := range list {
			if c.Name == name {
				st, found = c, true
			}
		}
	}
	pod := v.Pod.Name
	if !found {
		return "", 0, fmt.Errorf("container %q in pod %q is not available", name, pod)
	}
	last, now := st.LastTerminationState.Terminated, st.State.Terminated
	lastID := ""
	if last != nil {
		lastID = last.ContainerID
	}
	switch {
	case previous:
		if lastID == "" {
			return "", 0, fmt.Errorf("previous terminated container %q in pod %q not found", name, pod)
		}
		id, attempt = lastID, previousAttempt(st)
	case st.State.Running != nil:
		id, attempt = st.ContainerID, st.RestartCount
	case now != nil && now.ContainerID != "":
		id, attempt = now.ContainerID, st.RestartCount
	case now != nil || last != nil:
		if lastID == "" {
			return "", 0, fmt.Errorf("container %q in pod %q is terminated", name, pod)
		}
		id, attempt = lastID, previousAttempt(st)
	default:
		return "", 0, waitingError(st, name, pod)
	}
	return strings.TrimPrefix(id, status.ContainerIDPrefix), attempt, nil
}

// previousAttempt is the attempt of lastState: the present one's number, if nothing came after it.
func previousAttempt(st corev1.ContainerStatus) int32 {
	if st.State.Waiting != nil || st.LastTerminationState.Terminated.ContainerID == st.ContainerID {
		return st.RestartCount
	}
	return max(st.RestartCount-1, 0)
}

func waitingError(st corev1.ContainerStatus, name, pod string) error {
	if st.State.Waiting == nil {
		return fmt.Errorf("container %q in pod %q is waiting to start - no logs yet", name, pod)
	}
	switch reason := st.State.Waiting.Reason; reason {
	case "ErrImagePull":
		return fmt.Errorf("container %q in pod %q is waiting to start: image can't be pulled", name, pod)
	case "ImagePullBackOff":
		return fmt.Errorf("container %q in pod %q is waiting to start: trying and failing to pull image", name, pod)
	default:
		return fmt.Errorf("container %q in pod %q is waiting to start: %v", name, pod, reason)
	}
}

// logPath is where a container's log lies; the runtime knows best, but forgets what it has removed.
func (a *api) logPath(v worker.View, name, id string, attempt int32) string {
	for _, s := range v.Sandboxes {
		for _, c := range s.Containers {
			if c.ID == id && c.LogPath != "" {
				return c.LogPath
			}
		}
	}
	return worker.LogPath(a.Dir, v.Pod, name, uint32(attempt))
}

var _ io.Writer = flusher{}
