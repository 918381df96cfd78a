package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"bramble.dev/runtime/sandbox"
	"bramble.dev/runtime/shim"
)

// adopt finds again what an earlier process started, and removes what is nobody's.
func (e *Engine) adopt(ctx context.Context) error {
	records, err := e.dir.Load()
	if err != nil {
		return err
	}
	for _, r := range records {
		if err := e.adoptSandbox(ctx, r); err != nil {
			return fmt.Errorf("adopt sandbox %s of pod %s/%s: %w", r.ID, r.Namespace, r.Name, err)
		}
	}
	return e.sweep(ctx)
}

func (e *Engine) adoptSandbox(ctx context.Context, r sandbox.Record) error {
	p := &pod{rec: r, short: short(r.ID)}
	p.client = shim.Client{Dir: e.run(p)}
	var w *shim.Watch
	if r.BootID == e.bootID {
		var err error
		if w, err = p.client.Watch(ctx); err != nil && !errors.Is(err, shim.ErrGone) {
			return err
		}
	}
	known := map[string]bool{}
	if w != nil {
		for _, s := range w.Tasks {
			known[s.ID] = true
		}
	}
	e.mu.Lock()
	e.pods[r.ID] = p
	p.actual = e.actual(r.Given, r.Cgroup)
	var lost []*task
	for _, c := range r.Containers {
		t := &task{pod: p, rec: c, state: Created, exited: make(chan struct{})}
		e.containers[c.ID] = t
		switch {
		case c.Exit != nil:
			t.exit, t.state = c.Exit, Exited
			close(t.exited)
		case !known[c.ID]:
			lost = append(lost, t)
		}
	}
	e.mu.Unlock()
	if w != nil {
		for _, s := range w.Tasks { // here and now: whoever opened the engine lists what runs next
			e.heard(p, s)
		}
		e.mu.Lock()
		e.follow(p, w)
		e.mu.Unlock()
	} else { // a reboot, or the shim was killed: without it nothing of the pod may go on
		if err := e.cgroup.Kill(r.Cgroup); err != nil {
			return err
		}
	}
	for _, t := range lost {
		if err := e.adoptLost(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// adoptLost sees to a container of which no shim knows: it has ended, or it was never begun.
func (e *Engine) adoptLost(ctx context.Context, t *task) error {
	exit, err := sandbox.ReadExit(e.dir.ExitFile(t.pod.rec.ID, t.rec.ID))
	if err != nil {
		if t.rec.StartedAt.IsZero() && t.pod.rec.BootID == e.bootID && t.pod.pause > 0 { // the agent was killed while it prepared it
			return e.drop(ctx, t)
		}
		exit = e.lostExit(t)
	}
	e.end(t, exit)
	return e.giveBack(ctx, t)
}

// sweep removes what belongs to no sandbox: an earlier process was killed between two steps.
func (e *Engine) sweep(ctx context.Context) error {
	known := map[string]bool{"runc": true}
	cgroups := map[string]bool{}
	held := map[string]bool{} // by containers that have not given back what they hold
	e.mu.Lock()
	for _, p := range e.pods {
		known[p.short], cgroups[p.rec.Cgroup] = true, true
	}
	for id, t := range e.containers {
		held[id] = t.rec.Exit == nil
	}
	e.mu.Unlock()
	return errors.Join(e.sweepRun(ctx, known), e.sweepCgroups(ctx, cgroups), e.sweepSnapshots(held), e.sweepRunc(held))
}

func (e *Engine) sweepRun(ctx context.Context, known map[string]bool) error {
	entries, err := os.ReadDir(e.cfg.RunDir)
	if err != nil {
		return err
	}
	var failed []error
	for _, entry := range entries {
		if known[entry.Name()] {
			continue
		}
		dir := filepath.Join(e.cfg.RunDir, entry.Name())
		failed = append(failed, (shim.Client{Dir: dir}).Shutdown(ctx), removeRunFolder(dir))
	}
	return errors.Join(failed...)
}

func (e *Engine) sweepCgroups(ctx context.Context, known map[string]bool) error {
	names, err := e.cgroup.Names()
	failed := []error{err}
	for _, n := range names {
		if !known[n] {
			failed = append(failed, e.cgroup.Kill(n), e.cgroup.Remove(ctx, n))
		}
	}
	return errors.Join(failed...)
}

func (e *Engine) sweepSnapshots(held map[string]bool) error {
	ids, err := e.snap.Snapshots()
	failed := []error{err}
	for _, id := range ids {
		if !held[id] {
			failed = append(failed, e.snap.Unmount(id))
		}
	}
	return errors.Join(failed...)
}

func (e *Engine) sweepRunc(held map[string]bool) error {
	entries, err := os.ReadDir(e.runcRoot())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	failed := []error{err}
	for _, entry := range entries {
		if !held[entry.Name()] {
			failed = append(failed, os.RemoveAll(filepath.Join(e.runcRoot(), entry.Name())))
		}
	}
	return errors.Join(failed...)
}
