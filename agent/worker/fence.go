package worker

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/fence"
	"bramble.dev/agent/seam"
	"bramble.dev/link"
)

// armRetry is when a shim that could not be told of a fence is told again.
const armRetry = time.Second

// look asks the fence about the pod, tells its shim, and lets the server know: it counts on what it was told.
func (w *worker) look(ctx context.Context, d Desired, mine []seam.Sandbox, told []corev1.PodCondition) fence.Verdict {
	if w.m.Fence == nil {
		return fence.Verdict{}
	}
	limit, fenced := w.m.Fence.For(d.Pod, told)
	w.m.Fence.Watch(d.Pod.UID, fenced)
	if !fenced {
		return fence.Verdict{}
	}
	v := w.guard.Look(limit, w.m.Fence.Signs())
	lives := false
	for _, s := range mine {
		if s.Ready {
			lives, v.Armed = true, w.arm(ctx, s.ID, v.KillAt)
		}
	}
	// The shim of an older agent may know of no fence: the server must not count on it.
	if _, before := link.FenceTold(told); before || !lives || v.Armed {
		w.tell(limit, told)
	}
	return v
}

// arm has the shim of a sandbox kill it at a time; false if it does not know of any.
func (w *worker) arm(ctx context.Context, id string, at time.Duration) bool {
	if at > w.armed[id] {
		if err := w.m.Runtime.FenceSandbox(ctx, id, at); err != nil {
			w.log.Error("a pod's shim cannot be told when to end it", "err", err)
			return w.armed[id] > 0
		}
		w.armed = map[string]time.Duration{id: at}
	}
	return w.armed[id] > 0
}

// tell has the condition of a fence in the status.
func (w *worker) tell(limit link.Fence, told []corev1.PodCondition) {
	c := limit.Condition(time.Now())
	if at := slices.IndexFunc(told, func(c corev1.PodCondition) bool { return c.Type == link.FenceCondition }); at >= 0 && told[at].Message == c.Message {
		c = told[at]
	}
	w.memory.Status.Conditions = append(w.memory.Status.Conditions, c)
}

// guarded runs the pod as far as its fence allows.
func (p *planner) guarded() {
	g := p.o.Guard
	if g.Look > 0 {
		p.until(p.now.Add(g.Look))
	}
	switch {
	case g.Cut:
		p.halt()
	case !g.Held:
		p.run()
	}
	// Else nothing is started, and nothing that runs is ended: its shim knows until when.
}

// halt ends what runs of the pod. It starts again when the server is back and still wants it here.
func (p *planner) halt() {
	if p.stopContainers(CutOff, ": the server has not been heard of, and may replace the pod on another node") {
		p.stopSandbox()
	}
}
