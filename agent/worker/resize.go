package worker

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"

	"bramble.dev/agent/events"
	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/status"
)

// A resize in place (KEP-1287) has two halves. The node gives a pod what it asks for when that fits beside what other pods
// have: the allocation, with which everything else in this package sees the pod. Then the cgroups are written, and containers
// started anew where their policy says so.

const (
	firstResizeRetry = 2 * time.Second
	maxResizeRetry   = time.Minute
)

// allocate decides about what a new version of the pod asks for, and returns the pod with what it has.
func (w *worker) allocate(d Desired) Desired {
	r, want := &w.memory.Resize, podspec.Allocate(d.Pod)
	switch {
	case r.Allocated.IsZero():
		r.Allocated = want
	case r.Allocated.Equal(want):
		if r.Pending != nil {
			r.Pending = nil
			w.m.withdraw(d.Pod.UID)
		}
	case d.Ending(), w.memory.Evicted != nil, w.memory.Finished:
		w.m.withdraw(d.Pod.UID) // it must not keep others from what it will not have
	default:
		w.ask(d.Pod, want)
	}
	d.Pod = r.Allocated.Apply(d.Pod)
	return d
}

// ask takes what the pod asks for if the node has it.
func (w *worker) ask(pod *corev1.Pod, want podspec.Allocation) {
	r, about := &w.memory.Resize, events.Pod(pod)
	if why := w.m.grant(w, pod, r.Allocated.Apply(pod)); why != nil {
		if p := r.Pending; p == nil || p.Generation != pod.Generation {
			message := podspec.ResizeMessage(corev1.PodReasonDeferred, pod, pod.Generation, why.Message)
			w.m.Events.Event(about, corev1.EventTypeWarning, events.ResizeDeferred, message)
		}
		r.Pending = &status.Resize{Reason: corev1.PodReasonDeferred, Message: why.Message, Generation: pod.Generation}
		return
	}
	*r = Resize{Allocated: want, Running: &status.Resize{Generation: pod.Generation}}
	w.m.Events.Event(about, corev1.EventTypeNormal, events.ResizeStarted, podspec.ResizeMessage("started", pod, pod.Generation, ""))
}

// outgrown says that a running container must be started anew to have what it was given.
func (p *planner) outgrown(c podspec.Container, o seam.Container) bool {
	return p.o.Memory.Resize.Running != nil && podspec.RestartsToResize(c.Container, unlike(p.d.Pod, c, o))
}

// unlike names what a running container does not have as it was given; nothing of one that cannot be resized.
func unlike(pod *corev1.Pod, c podspec.Container, o seam.Container) []corev1.ResourceName {
	switch {
	case o.State != seam.Running || c.Kind == podspec.Ephemeral:
		return nil
	case o.Resources == nil: // an older agent started it
		return podspec.Compute
	}
	return podspec.Changed(*o.Resources, podspec.Effective(pod, c.Container))
}

// resize ends what must be started anew to be resized, and has the limits of the rest written. It says whether other things
// may be done: nothing is started in a cgroup that has no room for it yet.
func (p *planner) resize() bool {
	r := p.o.Memory.Resize
	if r.Running == nil || r.Written {
		return true
	}
	waits := false
	for _, o := range p.current {
		if c, ok := podspec.Find(p.d.Pod, o.Name); ok && p.outgrown(c, o) {
			p.replace(c, o, "Container")
			waits = true
		}
	}
	if !waits && !p.later(r.Retry.NotBefore, maxResizeRetry) {
		p.do(Action{Kind: WriteLimits})
	}
	return !waits
}

// writeLimits writes what the pod was given into the cgroups of what runs.
func (w *worker) writeLimits(ctx context.Context, pod *corev1.Pod) {
	r := &w.memory.Resize
	sandbox := w.view().Sandboxes[0]
	want := map[string]corev1.ResourceRequirements{}
	for _, o := range sandbox.Containers {
		if c, ok := podspec.Find(pod, o.Name); ok && o.State == seam.Running && c.Kind != podspec.Ephemeral {
			want[o.ID] = podspec.Effective(pod, c.Container)
		}
	}
	err := w.m.Runtime.Resize(ctx, sandbox.ID, pod, want)
	switch {
	case err == nil:
		r.Written, r.Retry = true, Retry{}
		return
	case ctx.Err() != nil:
		return
	}
	r.Retry = r.Retry.failed(time.Now(), firstResizeRetry, maxResizeRetry)
	if r.Running.Reason != corev1.PodReasonError { // later ones would be told anew with every attempt, for the amounts in them
		w.log.Info("a pod could not be resized and is tried again", "err", err)
		message := podspec.ResizeMessage("error", pod, r.Running.Generation, err.Error())
		w.m.Events.Event(events.Pod(pod), corev1.EventTypeWarning, events.ResizeError, message)
		r.Running = &status.Resize{Reason: corev1.PodReasonError, Message: err.Error(), Generation: r.Running.Generation}
	}
}

// resized ends a resize when everything that runs has what it was given.
func (w *worker) resized(d Desired, mine []seam.Sandbox) {
	r := &w.memory.Resize
	if r.Running == nil {
		return
	}
	if len(mine) > 0 && mine[0].Ready {
		for _, o := range mine[0].Containers {
			if c, ok := podspec.Find(d.Pod, o.Name); ok && len(unlike(d.Pod, c, o)) > 0 {
				r.Written = false
			}
		}
		if !r.Written {
			return
		}
	}
	message := podspec.ResizeMessage("completed", d.Pod, r.Running.Generation, "")
	w.m.Events.Event(events.Pod(d.Pod), corev1.EventTypeNormal, events.ResizeCompleted, message)
	r.Running, r.Written, r.Retry = nil, false, Retry{}
	w.m.resizeAgain()
}

// wish is a resize that waits for room.
type wish struct {
	pod    *corev1.Pod // as it is asked for
	grows  bool
	since  time.Time
	wakeup func()
}

// order is in which order wishes are granted: what takes nothing, then by priority, class and age, as the kubelet does.
func (w wish) order(other wish) int {
	after := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	lesser := func(p *corev1.Pod) int { return after(podspec.QOS(p) != corev1.PodQOSGuaranteed) }
	return cmp.Or(
		after(w.grows)-after(other.grows), cmp.Compare(podspec.Priority(other.pod), podspec.Priority(w.pod)),
		lesser(w.pod)-lesser(other.pod), w.since.Compare(other.since), cmp.Compare(w.pod.UID, other.pod.UID),
	)
}

// grant gives a pod what it asks for, or says why it cannot have that now. Wishes that come before it have the first choice.
func (m *Manager) grant(w *worker, pod, has *corev1.Pod) *status.Waiting {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, again := m.wishes[pod.UID]
	if !again {
		c = wish{since: time.Now(), wakeup: w.box.wake}
	}
	c.pod, c.grows = pod, grows(has, pod)
	m.wishes[pod.UID] = c
	taken := map[types.UID]*corev1.Pod{}
	for _, c := range slices.SortedFunc(maps.Values(m.wishes), wish.order) {
		why := m.fits(c.pod, taken)
		if why == nil {
			taken[c.pod.UID] = c.pod
		}
		if c.pod.UID == pod.UID {
			if why == nil {
				delete(m.wishes, pod.UID)
				w.mu.Lock()
				w.seen.Pod = pod // from now on it counts with this
				w.mu.Unlock()
			}
			return why
		}
	}
	return nil
}

// fits says why a pod does not fit beside the others, some of which are about to have another size. The lock is held.
func (m *Manager) fits(pod *corev1.Pod, taken map[types.UID]*corev1.Pod) *status.Waiting {
	if m.Admit == nil {
		return nil
	}
	others := m.active(pod.UID)
	for i, o := range others {
		if t := taken[o.UID]; t != nil {
			others[i] = t
		}
	}
	return m.Admit(pod, others)
}

func grows(has, wants *corev1.Pod) bool {
	opts := resource.PodResourcesOptions{}
	before, after := resource.PodRequests(has, opts), resource.PodRequests(wants, opts)
	return after.Cpu().Cmp(*before.Cpu()) > 0 || after.Memory().Cmp(*before.Memory()) > 0
}

// withdraw forgets a wish.
func (m *Manager) withdraw(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.wishes, uid)
}

// resizeAgain lets those ask again who wait for room.
func (m *Manager) resizeAgain() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wakeWishes()
}

// wakeWishes is resizeAgain with the lock held.
func (m *Manager) wakeWishes() {
	for _, c := range m.wishes {
		c.wakeup()
	}
}
