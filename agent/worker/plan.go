package worker

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/status"
)

// Plan decides the next step for one pod, and when to look again if nothing happens before; a zero
// time means that only a change can make a difference.
func Plan(d Desired, o Observed, now time.Time) (Action, time.Time) {
	p := &planner{d: d, o: o, now: now, byName: map[string][]seam.Container{}}
	for i, s := range o.Sandboxes {
		for _, c := range s.Containers {
			p.byName[c.Name] = append(p.byName[c.Name], c)
			if i == 0 && s.Ready {
				p.current = append(p.current, c)
			}
		}
	}
	for _, list := range p.byName {
		slices.SortStableFunc(list, seam.NewestFirst)
	}
	slices.SortStableFunc(p.current, seam.NewestFirst)
	p.decide()
	if p.action.Kind != None {
		return p.action, time.Time{}
	}
	return p.action, p.wake
}

type planner struct {
	d       Desired
	o       Observed
	now     time.Time
	byName  map[string][]seam.Container // newest first, of all sandboxes
	current []seam.Container            // of the sandbox that is ready, newest first

	action Action
	wake   time.Time
}

// do takes an action if none was taken yet, and says whether one is taken now.
func (p *planner) do(a Action) bool {
	if p.action.Kind == None {
		p.action = a
	}
	return true
}

func (p *planner) until(t time.Time) {
	if p.wake.IsZero() || t.Before(p.wake) {
		p.wake = t
	}
}

// later says that t has not come, and asks to be woken then. A clock that was set back must not
// make the wait longer than it was meant to be.
func (p *planner) later(t time.Time, most time.Duration) bool {
	if !t.After(p.now) {
		return false
	}
	if latest := p.now.Add(most); t.After(latest) {
		t = latest
	}
	p.until(t)
	return true
}

func (p *planner) decide() {
	m := p.o.Memory
	switch {
	case m.Finished:
		p.cleanUp()
	case p.d.Ending(), m.Evicted != nil, status.Terminal(p.o.Phase):
		p.end(true)
	case p.overdue():
		p.do(Action{Kind: Evict, Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"})
	default:
		p.guarded()
	}
}

func (p *planner) overdue() bool {
	limit, start := p.d.Pod.Spec.ActiveDeadlineSeconds, p.o.Memory.Status.StartTime
	if limit == nil || start == nil {
		return false
	}
	since := start.Time
	if !p.o.Since.IsZero() {
		since = p.o.Since
	}
	return !p.later(since.Add(time.Duration(*limit)*time.Second), time.Duration(*limit)*time.Second)
}

// cleanUp removes what a finished pod left for its logs and its status, once it is gone.
func (p *planner) cleanUp() {
	if !p.d.Gone {
		return
	}
	if p.later(p.o.Memory.End.NotBefore, maxEndRetry) {
		return
	}
	for _, s := range p.o.Sandboxes {
		p.do(Action{Kind: RemoveSandbox, ID: s.ID})
		return
	}
	p.do(Action{Kind: Forget})
}

// run keeps the pod's containers as its specification wants them.
func (p *planner) run() {
	if !p.o.Mounted {
		if !p.later(p.o.Memory.Volumes.NotBefore, maxVolumeRetry) {
			p.mount()
		}
		return
	}
	if p.reset() || !p.sandbox() {
		return
	}
	if !p.resize() {
		return
	}
	p.ephemeral()
	if p.served() {
		// Before the sidecars are looked at: one that has ended must not start again while another still ends.
		p.end(false)
		return
	}
	if !p.initialize() {
		return
	}
	p.apps()
	p.prune()
}

// mount has the volumes mounted when the images are here that some of them show.
func (p *planner) mount() {
	here := true
	for c := range podspec.VolumeImages(p.d.Pod) {
		p.prepare(c, false)
		here = here && p.o.Memory.Containers[c.Name].Image.ID != ""
	}
	if here {
		p.do(Action{Kind: Mount})
	}
}

// sandbox makes sure that there is exactly one good sandbox, and says whether there is.
func (p *planner) sandbox() bool {
	ready := -1
	for i, s := range p.o.Sandboxes {
		switch {
		case s.Ready && ready < 0 && i == 0:
			ready = i
		case s.Ready, anyRunning(s):
			return !p.do(Action{Kind: StopSandbox, ID: s.ID})
		}
	}
	if ready == 0 {
		for _, s := range p.o.Sandboxes[1:] {
			p.do(Action{Kind: RemoveSandbox, ID: s.ID})
			return false
		}
		if p.o.Guard.Fenced && !p.o.Guard.Armed {
			p.until(p.now.Add(armRetry))
			return false
		}
		return len(p.o.PodIPs) > 0 || p.d.Pod.Spec.HostNetwork || p.reattach()
	}
	if !p.worthSandbox() || p.later(p.o.Memory.Sandbox.NotBefore, maxSandboxRetry) {
		return false
	}
	a := Action{Kind: RunSandbox}
	if len(p.o.Sandboxes) > 0 {
		a.Attempt = p.o.Sandboxes[0].Attempt + 1
	}
	p.do(a)
	return false
}

// reattach replaces a sandbox that has lost its address.
func (p *planner) reattach() bool {
	if !p.later(p.o.Memory.Sandbox.NotBefore, maxSandboxRetry) {
		p.do(Action{Kind: StopSandbox, ID: p.o.Sandboxes[0].ID})
	}
	return false
}

// worthSandbox says whether a container would run in a new sandbox.
func (p *planner) worthSandbox() bool {
	if len(p.o.Sandboxes) == 0 && len(p.o.Memory.Containers) == 0 {
		return true
	}
	began := false
	for c := range podspec.All(p.d.Pod) {
		_, seen := p.last(c.Name)
		began = began || seen
		if c.Kind == podspec.App && !p.done(c) {
			return true
		}
	}
	return !began
}

func anyRunning(s seam.Sandbox) bool {
	return slices.ContainsFunc(s.Containers, func(c seam.Container) bool { return c.State == seam.Running })
}

func (p *planner) inSandbox(name string) (seam.Container, bool) {
	for _, c := range p.current {
		if c.Name == name {
			return c, true
		}
	}
	return seam.Container{}, false
}

// end is how a container last ended.
type end struct {
	code  int32
	at    time.Time
	reset bool // it was taken away to be started anew
}

// last is how the newest attempt of a container ended, as far as anybody knows.
func (p *planner) last(name string) (end, bool) {
	if list := p.byName[name]; len(list) > 0 {
		switch c := list[0]; c.State {
		case seam.Exited:
			return end{code: c.ExitCode, at: c.FinishedAt}, true
		case seam.Unknown:
			return end{code: 137, at: c.FinishedAt}, true
		default:
			return end{}, false
		}
	}
	s := p.o.Memory.Status
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for _, c := range list {
			if c.Name != name {
				continue
			}
			for _, state := range []corev1.ContainerState{c.State, c.LastTerminationState} {
				if t := state.Terminated; t != nil {
					return end{t.ExitCode, t.FinishedAt.Time, wasReset(state)}, true
				}
			}
		}
	}
	return end{}, false
}

// done says that a container has ended and is not started again.
func (p *planner) done(c podspec.Container) bool {
	e, ok := p.last(c.Name)
	return ok && !e.reset && !p.again(c.Name) && !podspec.ShouldRestart(&p.d.Pod.Spec, c.Container, e.code)
}

// again says that a container was ended to be started anew.
func (p *planner) again(name string) bool {
	list := p.byName[name]
	return len(list) > 0 && list[0].ID == p.o.Memory.Containers[name].Again
}

func (p *planner) ephemeral() {
	for c := range podspec.All(p.d.Pod) {
		if c.Kind != podspec.Ephemeral {
			continue
		}
		if _, ok := p.last(c.Name); !ok && len(p.byName[c.Name]) == 0 {
			p.start(c)
		}
	}
}

// initialize runs the init containers in order and keeps the sidecars running. It says whether the
// app containers may run.
func (p *planner) initialize() bool {
	var list []podspec.Container
	for c := range podspec.All(p.d.Pod) {
		if c.Kind == podspec.Init || c.Kind == podspec.Sidecar {
			list = append(list, c)
		}
	}
	passed := p.lastBegun(list)
	for i, c := range list {
		ok := i < passed
		if c.Kind == podspec.Sidecar {
			ok = p.sidecar(c) || ok
		} else if !ok {
			ok = p.initContainer(c)
		}
		if !ok {
			return false
		}
	}
	return true
}

// lastBegun is the index of the furthest init container that exists in the sandbox: all before it
// have passed, though the runtime may have lost them. Behind the last one once an app container
// exists.
func (p *planner) lastBegun(list []podspec.Container) int {
	for _, c := range p.d.Pod.Spec.Containers {
		if _, ok := p.inSandbox(c.Name); ok {
			return len(list)
		}
	}
	for i := len(list) - 1; i > 0; i-- {
		if _, ok := p.inSandbox(list[i].Name); ok {
			return i
		}
	}
	return 0
}

func (p *planner) initContainer(c podspec.Container) bool {
	o, ok := p.inSandbox(c.Name)
	switch {
	case !ok:
		p.start(c)
	case o.State == seam.Running:
	case o.State == seam.Exited && o.ExitCode == 0:
		return true
	case o.State == seam.Exited && !podspec.ShouldRestart(&p.d.Pod.Spec, c.Container, o.ExitCode):
		// The pod has failed; its phase says so.
	default:
		p.start(c)
	}
	return false
}

// sidecar keeps a sidecar running and says whether the next container may start.
func (p *planner) sidecar(c podspec.Container) bool {
	o, ok := p.inSandbox(c.Name)
	if !ok || o.State != seam.Running {
		p.start(c)
		return false
	}
	if p.replace(c, o, "Init container") {
		return false
	}
	if p.o.Busy[o.ID] == PostStart {
		return false
	}
	return c.StartupProbe == nil || p.started(o)
}

// started says whether a container has passed its startup probe, also before a restart of the agent.
func (p *planner) started(o seam.Container) bool {
	switch p.o.Probes[o.ID].Startup {
	case status.Success:
		return true
	case status.Failure:
		return false
	}
	s := lastStatus(&p.o.Memory.Status, o.ID)
	return s != nil && s.Started != nil && *s.Started
}

// lastStatus is what a pod's last status tells of a container, nil if it tells nothing.
func lastStatus(pod *corev1.PodStatus, id string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.InitContainerStatuses, pod.ContainerStatuses} {
		for i := range list {
			if list[i].ContainerID == status.ContainerIDPrefix+id {
				return &list[i]
			}
		}
	}
	return nil
}

// served says that no app container runs or will run: what is left (sidecars) has nobody to serve.
func (p *planner) served() bool {
	for i := range p.d.Pod.Spec.Containers {
		if !p.done(podspec.Container{Container: &p.d.Pod.Spec.Containers[i], Kind: podspec.App}) {
			return false
		}
	}
	return true
}

// apps keeps the app containers.
func (p *planner) apps() {
	blocked := false
	for i := range p.d.Pod.Spec.Containers {
		c := podspec.Container{Container: &p.d.Pod.Spec.Containers[i], Kind: podspec.App}
		o, ok := p.inSandbox(c.Name)
		switch {
		case ok && o.State == seam.Running:
			p.replace(c, o, "Container")
			blocked = blocked || p.o.Busy[o.ID] == PostStart
		case p.done(c):
			continue
		default:
			// Containers start in the order of the specification, but an image that is awaited does
			// not keep the images of the others from being fetched.
			blocked = p.prepare(c, !blocked) || blocked
		}
	}
}

// replace ends a running container that must not go on, and says whether it does.
func (p *planner) replace(c podspec.Container, o seam.Container, word string) bool {
	var cause Cause
	var message string
	probes := p.o.Probes[o.ID]
	again := podspec.RestartsWhileRunning(&p.d.Pod.Spec, c.Container)
	switch {
	case p.stopping(o): // it goes on
	case p.o.Memory.Containers[c.Name].BadHook == o.ID:
		p.stop(o, p.graceOf(c, HookFailed), HookFailed, "FailedPostStartHook", true)
		return true
	case o.SpecHash != "" && o.SpecHash != podspec.Hash(c.Container):
		cause, message, again = Changed, fmt.Sprintf("%s %s definition changed", word, c.Name), true
	case p.outgrown(c, o):
		p.stop(o, p.graceOf(c, Resized), Resized, fmt.Sprintf("Container %s resize requires restart", c.Name), true)
		return true
	case probes.Liveness == status.Failure:
		cause, message = NotLive, fmt.Sprintf("%s %s failed liveness probe", word, c.Name)
	case probes.Startup == status.Failure:
		cause, message = NotStarted, fmt.Sprintf("%s %s failed startup probe", word, c.Name)
	default:
		return false
	}
	if again && c.Kind == podspec.App {
		message += ", will be restarted"
	}
	p.stop(o, p.graceOf(c, cause), cause, message, true)
	return true
}

func (p *planner) stopping(o seam.Container) bool {
	s := p.o.Memory.Containers[o.Name].Stop
	return s != nil && s.ID == o.ID
}

// prune keeps, of each container that has ended, only the last one: its log is what --previous shows.
func (p *planner) prune() {
	for c := range podspec.All(p.d.Pod) {
		kept := 0
		for _, o := range p.byName[c.Name] {
			if o.State == seam.Running {
				continue
			}
			if kept++; kept > 1 || (o.State == seam.Created && p.o.Busy[o.ID] == 0) {
				p.do(Action{Kind: RemoveContainer, Container: c.Name, ID: o.ID})
				return
			}
		}
	}
}
