//lint:file-ignore ST1005 these are kubelet's words, which events repeat

// Package hook runs what a container wants to be run after its start and before its end.
//
// Invariant: a hook ends with its context, and an error never holds what the hook printed where a
// user without access to the container could read it (events); that goes to the log alone.
//
//	err := hook.Runner{Exec: rt.Exec}.Run(ctx, pod, container, id, ip, container.Lifecycle.PreStop)
//
// Tests: agent/worker/loop_test.go
package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/events"
	"bramble.dev/agent/podspec"
	"bramble.dev/agent/probe"
	"bramble.dev/agent/seam"
)

// Runner runs hooks.
type Runner struct {
	Exec   func(ctx context.Context, id string, cmd []string, s seam.Streams) (int, error)
	Events *events.Recorder
}

// Run runs one hook of a container.
func (r Runner) Run(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id, podIP string, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		out := seam.Output{Max: 1024}
		code, err := r.Exec(ctx, id, h.Exec.Command, seam.Streams{Stdout: &out, Stderr: &out})
		if err == nil && code != 0 {
			err = fmt.Errorf("command %q exited with %d", strings.Join(h.Exec.Command, " "), code)
		}
		if err != nil {
			return fmt.Errorf("Exec lifecycle hook (%v) for Container %q in Pod %q failed - error: %w, message: %q", h.Exec.Command, c.Name, podspec.Full(pod), err, out.String())
		}
	case h.HTTPGet != nil:
		if err := r.get(ctx, pod, c, podIP, h.HTTPGet); err != nil {
			return fmt.Errorf("HTTP lifecycle hook (%s) for Container %q in Pod %q failed - error: %w", h.HTTPGet.Path, c.Name, podspec.Full(pod), err)
		}
	case h.Sleep != nil:
		select {
		case <-time.After(time.Duration(h.Sleep.Seconds) * time.Second):
		case <-ctx.Done():
			return fmt.Errorf("Sleep lifecycle hook (%d) for Container %q in Pod %q failed - error: %w", h.Sleep.Seconds, c.Name, podspec.Full(pod), errors.New("container terminated before sleep hook finished"))
		}
	default:
		return fmt.Errorf("Cannot run handler: invalid handler: %v", h)
	}
	return nil
}

// get asks by HTTP. A hook that says HTTPS and reaches a server that speaks HTTP is asked again
// without encryption, as the kubelet has done ever since.
func (r Runner) get(ctx context.Context, pod *corev1.Pod, c *corev1.Container, ip string, get *corev1.HTTPGetAction) error {
	if ip == "" && get.Host == "" {
		return errors.New("failed to find networking container")
	}
	req, err := probe.Request(ctx, get, c, ip, "lifecycle")
	if err != nil {
		return err
	}
	res, err := probe.Do(req)
	if err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		req = req.Clone(ctx)
		req.URL.Scheme = "http"
		req.Header.Del("Authorization")
		if res, err = probe.Do(req); err == nil && r.Events != nil {
			r.Events.Eventf(events.Pod(pod), corev1.EventTypeWarning, events.LifecycleHTTPFallback, "request to HTTPS lifecycle hook %s got HTTP response, retry with HTTP succeeded", req.URL.Host)
		}
	}
	discard(res)
	return err
}

func discard(res *http.Response) {
	if res == nil {
		return
	}
	io.Copy(io.Discard, io.LimitReader(res.Body, 10<<10))
	res.Body.Close()
}
