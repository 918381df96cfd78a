package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/runtime/cgroup"
	"bramble.dev/runtime/container"
	"bramble.dev/runtime/sandbox"
)

// resizeTimeout bounds how long runc may take for one container.
const resizeTimeout = 30 * time.Second

// actual is what a cgroup gives now; nil if it is not known what it was given.
func (e *Engine) actual(g sandbox.Given, name string) *corev1.ResourceRequirements {
	if g.Resources == nil {
		return nil
	}
	now := e.cgroup.Limits(name)
	if now == g.Held {
		return g.Resources
	}
	r := container.Actual(*g.Resources, g.Held, now)
	return &r
}

// Resize gives a running pod what its specification says now, and its containers, by their IDs, what want says. The pod's
// cgroup grows before its containers' and shrinks after them, because the kernel refuses a child that is larger than its
// parent. It can be repeated after an error; a memory limit below what is used is refused before anything is changed.
func (e *Engine) Resize(ctx context.Context, sandboxID string, spec *corev1.Pod, want map[string]corev1.ResourceRequirements) error {
	p, err := e.pod(sandboxID)
	if err != nil {
		return err
	}
	r := resize{e: e, p: p, pod: container.PodRequirements(spec), limits: container.PodResources(spec), now: e.cgroup.Limits(p.rec.Cgroup)}
	for _, t := range e.tasksOf(p) {
		if to, ok := want[t.rec.ID]; ok && e.observed(t).State == Running {
			r.tasks = append(r.tasks, taskResize{t, to, e.cgroup.Limits(e.cgroupOf(t))})
		}
	}
	slices.SortFunc(r.tasks, func(a, b taskResize) int { return a.grows() - b.grows() })
	if err := r.check(); err != nil {
		return err
	}
	return r.run(ctx)
}

// resize is one pod's.
type resize struct {
	e      *Engine
	p      *pod
	pod    corev1.ResourceRequirements
	limits cgroup.Resources
	now    cgroup.Limits
	tasks  []taskResize
}

type taskResize struct {
	t    *task
	want corev1.ResourceRequirements
	now  cgroup.Limits
}

// grows sorts what is given back before what is taken.
func (c taskResize) grows() int {
	if m := c.want.Limits.Memory().Value(); m > c.now.Memory {
		return 1
	}
	return 0
}

// lowers says whether a limit becomes tighter.
func lowers(to, from int64) bool { return to > 0 && (from == 0 || to < from) }

// check refuses memory limits that would be below what is used, in the kubelet's words.
func (r *resize) check() error {
	var bad []string
	if lowers(r.limits.Memory, r.now.Memory) {
		if used, err := r.e.cgroup.Stats(r.p.rec.Cgroup); err == nil && used.Memory >= uint64(r.limits.Memory) {
			bad = append(bad, fmt.Sprintf("attempting to set pod memory limit (%d) below current usage (%d)", r.limits.Memory, used.Memory))
		}
	}
	for _, c := range r.tasks {
		limit := c.want.Limits.Memory().Value()
		if !lowers(limit, c.now.Memory) {
			continue
		}
		if used, err := r.e.cgroup.Stats(r.e.cgroupOf(c.t)); err == nil && used.Memory >= uint64(limit) {
			bad = append(bad, fmt.Sprintf("attempting to set container %q memory limit (%d) below current usage (%d)", c.t.rec.Name, limit, used.Memory))
		}
	}
	switch len(bad) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("cannot decrease memory limits: %s", bad[0])
	}
	return fmt.Errorf("cannot decrease memory limits: [%s]", strings.Join(bad, ", "))
}

func (r *resize) run(ctx context.Context) error {
	first, last := r.limits, r.limits
	first.CPUShares = max(first.CPUShares, r.now.CPUShares)
	if lowers(first.CPUQuota, r.now.CPUQuota) {
		first.CPUQuota = 0
	}
	if lowers(first.Memory, r.now.Memory) {
		first.Memory = 0
	}
	if err := r.e.cgroup.Set(r.p.rec.Cgroup, first); err != nil {
		return err
	}
	for _, c := range r.tasks {
		if err := r.e.update(ctx, c); err != nil {
			return err
		}
	}
	if err := r.e.cgroup.Set(r.p.rec.Cgroup, last); err != nil {
		return err
	}
	given := sandbox.Given{Resources: &r.pod, Held: r.e.cgroup.Limits(r.p.rec.Cgroup)}
	r.e.mu.Lock()
	r.p.rec.Given, r.p.actual = given, given.Resources
	rec := r.p.rec
	r.e.mu.Unlock()
	return r.e.dir.Save(rec)
}

// update writes a container's limits through runc, which knows how it made them.
func (e *Engine) update(ctx context.Context, c taskResize) error {
	in, err := json.Marshal(container.Limits(c.want, e.host))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resizeTimeout)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, e.cfg.Runc, "--root", e.runcRoot(), "update", "--resources", "-", c.t.rec.ID)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("set the limits of container %s: %w: %s", c.t.rec.Name, err, bytes.TrimSpace(out.Bytes()))
	}
	given := sandbox.Given{Resources: &c.want, Held: e.cgroup.Limits(e.cgroupOf(c.t))}
	e.mu.Lock()
	c.t.rec.Given, c.t.actual = given, given.Resources
	rec := c.t.rec
	e.mu.Unlock()
	return e.dir.SaveContainer(c.t.pod.rec.ID, rec)
}
