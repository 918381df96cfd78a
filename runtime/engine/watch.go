package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"bramble.dev/runtime/logs"
	"bramble.dev/runtime/sandbox"
	"bramble.dev/runtime/shim"
)

// follow starts to listen to a pod's shim. The engine's mutex is held.
func (e *Engine) follow(p *pod, w *shim.Watch) {
	p.pause = w.Pause
	p.watched = make(chan struct{})
	p.close = func() { _ = w.Close() }
	e.workers.Go(func() {
		e.listen(p, w)
		close(p.watched)
	})
}

// listen hears what happens to a sandbox until its shim is gone, or the engine is closed.
func (e *Engine) listen(p *pod, w *shim.Watch) {
	for {
		s, err := w.Next()
		if err == nil && s != nil {
			e.heard(p, *s)
			continue
		}
		if err == nil { // the pause process has ended, and the pod's namespaces with it
			e.mu.Lock()
			p.pause = 0
			e.mu.Unlock()
			e.changes.add(string(p.rec.UID))
			continue
		}
		_ = w.Close()
		if w = e.again(p); w == nil {
			return
		}
		for _, s := range w.Tasks {
			e.heard(p, s)
		}
	}
}

// again connects anew to a shim that cut us off because we did not listen for too long. If it is gone, everything that
// it was the parent of is killed: nobody would keep its logs and its exit code.
func (e *Engine) again(p *pod) *shim.Watch {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	w, err := p.client.Watch(ctx)
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		if err == nil {
			_ = w.Close()
		}
		return nil
	}
	if err == nil {
		p.pause = w.Pause
		p.close = func() { _ = w.Close() }
		e.mu.Unlock()
		return w
	}
	p.pause = 0
	stopped := p.stopped
	e.mu.Unlock()
	if stopped {
		return nil // by us; stopSandbox does the rest
	}
	e.log.Error("a pod's shim has ended; the pod is started anew", "namespace", p.rec.Namespace, "pod", p.rec.Name, "err", err)
	if err := e.cgroup.Kill(p.rec.Cgroup); err != nil {
		e.log.Error("could not kill what is left of a pod", "namespace", p.rec.Namespace, "pod", p.rec.Name, "err", err)
	}
	for _, t := range e.tasksOf(p) {
		e.end(t, e.lostExit(t))
		if err := e.giveBack(ctx, t); err != nil {
			e.log.Warn("could not remove what a container held", "container", t.rec.ID, "err", err)
		}
	}
	e.changes.add(string(p.rec.UID))
	return nil
}

// heard takes in what a shim says of a container.
func (e *Engine) heard(p *pod, s shim.TaskState) {
	e.mu.Lock()
	t := e.containers[s.ID]
	e.mu.Unlock()
	if t == nil || t.pod != p {
		return
	}
	switch {
	case s.Exited:
		x := sandbox.Exit{Code: int32(s.Code), OOM: s.OOM, Failed: s.Failed, StartedAt: s.Started, FinishedAt: s.Finished}
		if e.end(t, x) {
			e.workers.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				if err := e.giveBack(ctx, t); err != nil {
					e.log.Warn("could not remove what a container held", "container", t.rec.ID, "err", err)
				}
			})
		}
	case !s.Starting:
		e.began(t, s)
	}
}

// began notes that a container runs.
func (e *Engine) began(t *task, s shim.TaskState) {
	e.mu.Lock()
	if t.state != Created && t.state != Unknown {
		e.mu.Unlock()
		return
	}
	if t.rec.StartedAt.IsZero() {
		t.rec.Held = e.cgroup.Limits(e.cgroupOf(t))
	}
	t.actual = e.actual(t.rec.Given, e.cgroupOf(t))
	t.state, t.pid, t.rec.StartedAt = Running, s.Pid, s.Started
	rec := t.rec
	e.mu.Unlock()
	if err := e.dir.SaveContainer(t.pod.rec.ID, rec); err != nil {
		e.log.Warn("could not note that a container runs", "container", rec.ID, "err", err)
	}
	e.changes.add(string(t.pod.rec.UID))
}

// end notes that a container has ended; only the first to say so is believed.
func (e *Engine) end(t *task, x sandbox.Exit) bool {
	e.mu.Lock()
	over := t.exit != nil
	e.mu.Unlock()
	if over {
		return false
	}
	x.Reason, x.Message = e.explain(t, x)
	e.mu.Lock()
	if t.exit != nil {
		e.mu.Unlock()
		return false
	}
	if t.rec.StartedAt.IsZero() {
		t.rec.StartedAt = x.StartedAt
	}
	t.exit, t.state, t.pid = &x, Exited, 0
	close(t.exited)
	e.mu.Unlock()
	e.changes.add(string(t.pod.rec.UID))
	return true
}

// lostExit is how a container ended whose end nobody saw, unless the shim could write it down.
func (e *Engine) lostExit(t *task) sandbox.Exit {
	if x, err := sandbox.ReadExit(e.dir.ExitFile(t.pod.rec.ID, t.rec.ID)); err == nil {
		return x
	}
	return sandbox.Exit{Code: 255, FinishedAt: time.Now(), Reason: "Unknown",
		Message: "nobody saw how the container ended: the board was rebooted, or the pod's shim (the process bramble-shim that keeps its logs and exit codes) was killed, and the container with it"}
}

const (
	maxMessage   = 4096 // of a termination message
	maxLogTail   = 2048 // of a message that is the end of the log
	maxLogLines  = 80
	startErrCode = 128 // what containerd reports for a container that could not be started
)

// explain gives the reason, with the CRI's words, and the message that the container left.
func (e *Engine) explain(t *task, x sandbox.Exit) (reason, message string) {
	switch {
	case x.Reason != "":
		reason = x.Reason
	case x.Failed:
		return "StartError", e.runcSays(filepath.Join(e.bundle(t), "runc.log"))
	case x.OOM:
		reason = "OOMKilled"
	case x.Code == 0:
		reason = "Completed"
	default:
		reason = "Error"
	}
	if b, err := readUpTo(e.terminationFile(t), maxMessage); err == nil && len(b) > 0 {
		return reason, string(b)
	}
	message = x.Message
	if t.rec.FallbackLogs && x.Code != 0 {
		var tail tailWriter
		_ = logs.Read(context.Background(), t.rec.LogPath, logs.Options{Tail: maxLogLines, HasTail: true}, &tail, &tail)
		if len(tail) > 0 {
			message = string(tail)
		}
	}
	return reason, message
}

type tailWriter []byte

func (w *tailWriter) Write(p []byte) (int, error) {
	*w = append(*w, p...)
	if over := len(*w) - maxLogTail; over > 0 {
		*w = (*w)[over:]
	}
	return len(p), nil
}

func readUpTo(file string, n int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, n)
	got, err := f.Read(b)
	if got > 0 {
		err = nil
	}
	return b[:got], err
}

// giveBack removes what an ended container holds: its processes, its mounts, what it wrote, its cgroups, runc's state.
// Its record and its log stay.
func (e *Engine) giveBack(ctx context.Context, t *task) error {
	t.release.Lock()
	defer t.release.Unlock()
	e.mu.Lock()
	done, rec, exit := t.rec.Exit != nil, t.rec, t.exit
	e.mu.Unlock()
	if done || exit == nil {
		return nil
	}
	failed := []error{
		e.cgroup.Remove(ctx, e.cgroupOf(t)), // kills what is left in it
		e.snap.Unmount(rec.ID),
		os.RemoveAll(filepath.Join(e.runcRoot(), rec.ID)),
		os.RemoveAll(e.bundle(t)),
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	rec.Exit, rec.Layers = exit, nil
	if err := e.dir.SaveContainer(t.pod.rec.ID, rec); err != nil {
		return err
	}
	e.mu.Lock()
	t.rec.Exit, t.rec.Layers = rec.Exit, rec.Layers // the rest never changes, and is read without the lock
	e.mu.Unlock()
	if err := t.pod.client.Forget(ctx, rec.ID); err != nil && !errors.Is(err, shim.ErrGone) {
		e.log.Debug("a shim did not forget a container", "container", rec.ID, "err", err)
	}
	return nil
}

const unsaid = "the container could not be started, and runc did not say why"

// runcSays finds what runc complained of in its log.
func (e *Engine) runcSays(file string) string {
	b, err := readUpTo(file, 64<<10)
	if err != nil {
		return unsaid
	}
	return lastError(string(b))
}

// lastError picks the last complaint of runc's log, whose lines are JSON.
func lastError(log string) string {
	said := ""
	for line := range strings.Lines(log) {
		if msg, ok := logMessage(line); ok {
			said = msg
		}
	}
	if said == "" {
		said = unsaid
	}
	return said
}
