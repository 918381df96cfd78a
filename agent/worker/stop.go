package worker

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
)

// end ends all containers of the pod; when whole, the sandbox and what the pod holds of the node go too.
func (p *planner) end(whole bool) {
	if p.stopContainers("", "") && whole && p.stopSandbox() {
		p.do(Action{Kind: Finish})
	}
}

// stopContainers ends the pod's containers, sidecars last and in reverse order, and says whether none runs any more. Their
// events tell the words.
func (p *planner) stopContainers(cause Cause, words string) bool {
	running := p.running()
	for _, o := range running {
		c, _ := podspec.Find(p.d.Pod, o.Name)
		p.stop(o, p.graceOf(podspec.Container{}, cause), cause, "Stopping container "+o.Name+words, p.turn(c, running))
	}
	return len(running) == 0
}

// stopSandbox ends the sandbox, and says whether none is left that could run anything.
func (p *planner) stopSandbox() bool {
	if p.later(p.o.Memory.End.NotBefore, maxEndRetry) {
		return false
	}
	for _, s := range p.o.Sandboxes {
		if s.Ready {
			p.do(Action{Kind: StopSandbox, ID: s.ID})
			return false
		}
	}
	return true
}

// running are the containers that run, in the order of the specification.
func (p *planner) running() []seam.Container {
	var out []seam.Container
	for _, s := range p.o.Sandboxes {
		for _, o := range s.Containers {
			if o.State == seam.Running {
				out = append(out, o)
			}
		}
	}
	order := map[string]int{}
	for c := range podspec.All(p.d.Pod) {
		order[c.Name] = len(order)
	}
	slices.SortStableFunc(out, func(a, b seam.Container) int { return order[a.Name] - order[b.Name] })
	return out
}

// turn says whether a container may be stopped yet: a sidecar serves until all app containers, and
// the sidecars that started after it, have ended.
func (p *planner) turn(c podspec.Container, running []seam.Container) bool {
	if c.Kind != podspec.Sidecar {
		return true
	}
	after := false
	for other := range podspec.All(p.d.Pod) {
		if other.Name == c.Name {
			after = true
			continue
		}
		waits := other.Kind == podspec.App || (after && other.Kind == podspec.Sidecar)
		if waits && slices.ContainsFunc(running, func(o seam.Container) bool { return o.Name == other.Name }) {
			return false
		}
	}
	return true
}

// stop takes a running container one step nearer to its end: announce it and run its hook, wait for
// the hook and for its turn as long as the grace period lasts, then signal it.
func (p *planner) stop(o seam.Container, grace time.Duration, cause Cause, message string, turn bool) {
	past := p.o.Memory.Containers[o.Name]
	s := past.Stop
	if s == nil || s.ID != o.ID {
		p.do(Action{Kind: BeginStop, Container: o.Name, ID: o.ID, Grace: grace, Cause: cause, Message: message})
		return
	}
	deadline := s.Since.Add(min(s.Grace, grace))
	if s.Hook && s.KillAt.IsZero() && p.o.Busy[o.ID] != PreStop && p.later(deadline, grace) {
		p.do(Action{Kind: PreStopAgain, Container: o.Name, ID: o.ID, Grace: deadline.Sub(p.now)})
		return
	}
	if (p.o.Busy[o.ID] == PreStop || !turn) && p.later(deadline, grace) {
		return
	}
	rest := max(deadline.Sub(p.now), minGrace)
	switch {
	case p.o.Busy[o.ID] == Stopping:
		if !s.KillAt.After(p.now.Add(rest + time.Second)) {
			return // it ends in time by itself
		}
	case !s.KillAt.IsZero() && p.later(past.NotBefore, maxEndRetry):
		return
	}
	p.do(Action{Kind: StopContainer, Container: o.Name, ID: o.ID, Grace: rest})
}

// graceOf is how long a container may take to end.
func (p *planner) graceOf(c podspec.Container, cause Cause) time.Duration {
	pod := p.d.Pod
	if p.o.Memory.Hurried && (pod.DeletionGracePeriodSeconds == nil || *pod.DeletionGracePeriodSeconds > 0) {
		return hurriedGrace
	}
	if pod.DeletionGracePeriodSeconds != nil {
		return time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
	}
	if pod.Spec.TerminationGracePeriodSeconds == nil {
		return minGrace
	}
	var probe *corev1.Probe
	switch cause {
	case NotLive:
		probe = c.LivenessProbe
	case NotStarted:
		probe = c.StartupProbe
	}
	if probe != nil && probe.TerminationGracePeriodSeconds != nil {
		return time.Duration(*probe.TerminationGracePeriodSeconds) * time.Second
	}
	return time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second
}
