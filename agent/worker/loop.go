package worker

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/fence"
	"bramble.dev/agent/podspec"
)

// worker runs one pod. All its fields but box, and those that mu guards, belong to its goroutine.
type worker struct {
	m   *Manager
	log *slog.Logger
	box *mailbox

	memory  Memory
	saved   []byte // the record as it was last handed to the store
	told    []byte // the status as it was last reported
	toldEnd bool

	since    time.Time // see began
	guard    fence.Guard
	armed    map[string]time.Duration // until when the shim of a sandbox lets it live
	volumes  map[string]string        // host paths; nil until mounted
	ips      []string
	ipOf     string // the sandbox that ips belong to
	jobs     map[string]*job
	results  chan func()
	jobsDone sync.WaitGroup

	mu    sync.Mutex // guards what follows, which others read
	seen  View
	end   bool
	first bool // something was reported
}

func newWorker(m *Manager, pod *corev1.Pod, memory Memory) *worker {
	if memory.Containers == nil {
		memory.Containers = map[string]Past{}
	}
	known := memory.Status.Phase != ""
	if !known {
		memory.Status = *pod.Status.DeepCopy()
	}
	w := &worker{
		m: m, log: m.Logger.With("namespace", pod.Namespace, "pod", pod.Name, "uid", pod.UID),
		box: newMailbox(pod), memory: memory,
		jobs: map[string]*job{}, results: make(chan func()),
		seen: View{Pod: memory.Resize.Allocated.Apply(pod), Status: memory.Status},
	}
	if known {
		w.saved, _ = memory.encode(false)
	}
	for _, ip := range memory.Status.PodIPs {
		w.ips = append(w.ips, ip.IP)
	}
	return w
}

// spins bounds the steps that a worker takes without waiting: a plan and a runtime that disagree
// must not take the board's processor.
const spins = 200

// run works until the pod is forgotten, which it then says, or ctx is done.
func (w *worker) run(ctx context.Context) (forgotten bool) {
	defer w.quit()
	for steps := 0; ctx.Err() == nil; steps++ {
		next := w.step(ctx, steps)
		switch {
		case next.forgotten:
			return true
		case next.rests:
			steps = 0
			w.wait(ctx, next.wake)
		case next.waits:
			w.wait(ctx, next.wake)
		}
	}
	return false
}

// outcome is what a step led to.
type outcome struct {
	forgotten bool
	rests     bool      // there was nothing to do
	waits     bool      // there is nothing to do before wake
	wake      time.Time // zero: until something happens
}

// step looks, and takes one action; steps is how many there were without a rest. It is no part of run because a worker waits
// nearly all of its life: what looking takes of the stack, 2.7 KiB, would be kept by every pod then, and four times over, because
// the Go runtime makes no stack smaller of which a quarter is used.
func (w *worker) step(ctx context.Context, steps int) outcome {
	desired, refresh, retry := w.box.take()
	desired = w.allocate(desired)
	w.notice(ctx, desired, refresh, retry)
	w.evict(desired, w.box.eviction())
	observed, err := w.observe(ctx, desired)
	if err != nil {
		w.log.Error("the runtime cannot be asked", "err", err)
		return outcome{waits: true, wake: time.Now().Add(time.Second)}
	}
	action, wake := Plan(desired, observed, time.Now())
	if action.Kind != None && steps < spins {
		w.log.Debug("step", "action", string(action.Kind), "container", action.Container, "id", action.ID)
		return outcome{forgotten: w.apply(ctx, desired.Pod, action)}
	}
	if action.Kind != None {
		w.log.Error("a pod does not come to rest", "action", string(action.Kind), "container", action.Container, "id", action.ID)
		wake = time.Now().Add(10 * time.Second)
	}
	w.publish(desired)
	return outcome{rests: true, wake: wake}
}

// wait returns when there is a reason to look again.
func (w *worker) wait(ctx context.Context, wake time.Time) {
	var alarm <-chan time.Time
	if !wake.IsZero() {
		t := time.NewTimer(max(time.Until(wake), time.Millisecond))
		defer t.Stop()
		alarm = t.C
	}
	select {
	case <-ctx.Done():
	case <-w.box.notify:
	case <-alarm:
	case record := <-w.results:
		record()
	}
	for { // whatever else has ended meanwhile belongs to the same look
		select {
		case record := <-w.results:
			record()
		default:
			return
		}
	}
}

// notice takes in what a new version, or a change of what the pod refers to, means at once.
func (w *worker) notice(ctx context.Context, d Desired, refresh, retry bool) {
	if d.Ending() {
		for key, j := range w.jobs {
			if j.kind == Pulling {
				j.cancel()
				delete(w.jobs, key)
			}
		}
		return
	}
	if retry {
		w.memory.Volumes.NotBefore, w.memory.Sandbox.NotBefore = time.Time{}, time.Time{}
		for c := range podspec.All(d.Pod) {
			w.unblock(ctx, d.Pod, c)
		}
		for c := range podspec.VolumeImages(d.Pod) {
			w.unblock(ctx, d.Pod, c)
		}
	}
	if refresh && w.volumes != nil {
		if err := w.m.Volumes.Refresh(ctx, d.Pod); err != nil {
			w.log.Warn("volumes could not be refreshed", "err", err)
		}
	}
}

// unblock lets a container be tried again that waits for something which may be there now.
func (w *worker) unblock(ctx context.Context, pod *corev1.Pod, c podspec.Container) {
	past, known := w.memory.Containers[c.Name]
	if known && past.Waiting != nil && past.Waiting.Reason == errConfig {
		past.NotBefore = time.Time{}
		w.memory.Containers[c.Name] = past
	}
	pull := imageWork(c.Name)
	waits := known && past.Waiting != nil && slices.Contains([]string{errImagePull, imagePullBackOff, errNeverPull}, past.Waiting.Reason)
	if (!waits && w.jobs[pull] == nil) || c.ImagePullPolicy == corev1.PullAlways {
		return
	}
	secrets, _ := w.pullSecrets(pod)
	if _, here := w.m.Images.ResolveFor(ctx, podspec.ImageRef(c.Image), secrets); !here {
		return
	}
	if w.ends(pull) && w.memory.Containers[c.Name].Image.ID != "" {
		return // it is what brought the image
	}
	w.cancel(pull)
	past = w.memory.Containers[c.Name]
	past.NotBefore, past.Image = time.Time{}, Image{}
	w.memory.Containers[c.Name] = past
}

// aMoment is what a job may need from its last deed to its end.
const aMoment = 100 * time.Millisecond

// ends says whether a job ends within a moment.
func (w *worker) ends(key string) bool {
	if w.jobs[key] == nil {
		return false
	}
	for alarm := time.After(aMoment); w.jobs[key] != nil; {
		select {
		case record := <-w.results:
			record()
		case <-alarm:
			return false
		}
	}
	return true
}
