package worker

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/fence"
	"bramble.dev/agent/podspec"
	"bramble.dev/agent/probe"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/state"
	"bramble.dev/agent/status"
)

// job is work that goes on beside the worker.
type job struct {
	kind   Work
	cancel context.CancelFunc
}

// worker runs one pod. All its fields but box and seen belong to its goroutine.
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

	mu    sync.Mutex
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
	defer w.stopJobs()
	for steps := 0; ctx.Err() == nil; steps++ {
		desired, refresh, retry := w.box.take()
		desired = w.allocate(desired)
		w.notice(ctx, desired, refresh, retry)
		w.evict(desired, w.box.eviction())
		observed, err := w.observe(ctx, desired)
		if err != nil {
			w.log.Error("the runtime cannot be asked", "err", err)
			w.wait(ctx, time.Now().Add(time.Second))
			continue
		}
		action, wake := Plan(desired, observed, time.Now())
		if action.Kind != None && steps < spins {
			w.log.Debug("step", "action", string(action.Kind), "container", action.Container, "id", action.ID)
			if w.apply(ctx, desired.Pod, action) {
				return true
			}
			continue
		}
		if action.Kind != None {
			w.log.Error("a pod does not come to rest", "action", string(action.Kind), "container", action.Container, "id", action.ID)
			wake = time.Now().Add(10 * time.Second)
		}
		steps = 0
		w.publish(desired)
		w.wait(ctx, wake)
	}
	return false
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

// observe asks the runtime for the pod, and brings what is derived from it up to date.
func (w *worker) observe(ctx context.Context, d Desired) (Observed, error) {
	all, err := w.m.Runtime.List(ctx)
	if err != nil {
		return Observed{}, err
	}
	var mine []seam.Sandbox
	for _, s := range all {
		if s.PodUID == d.Pod.UID {
			mine = append(mine, s)
		}
	}
	slices.SortFunc(mine, func(a, b seam.Sandbox) int {
		if a.Attempt != b.Attempt {
			return int(b.Attempt) - int(a.Attempt)
		}
		return b.CreatedAt.Compare(a.CreatedAt)
	})
	w.address(ctx, d, mine)
	w.probe(d, mine)
	o := Observed{
		Sandboxes: mine, Mounted: w.volumes != nil, Busy: map[string]Work{},
		Probes: w.m.Prober.Results(d.Pod.UID),
	}
	if len(mine) > 0 && mine[0].Ready && w.ipOf == mine[0].ID {
		o.PodIPs = w.ips
	}
	for key, j := range w.jobs {
		o.Busy[key] = j.kind
	}
	w.resized(d, mine)
	in := w.input(d, o)
	o.Phase = status.Decided(in)
	told := w.memory.Status.Conditions
	w.memory.Status = status.Generate(in)
	o.Since = w.began()
	o.Guard = w.look(ctx, d, mine, told)
	o.Memory = w.memory
	w.mu.Lock()
	w.seen = View{Pod: d.Pod, Status: w.memory.Status, Sandboxes: mine, Ending: d.Ending() || w.memory.Evicted != nil, Finished: w.memory.Finished}
	w.end = w.memory.Finished
	w.mu.Unlock()
	return o, nil
}

// began is when the pod started, with a reading of the monotonic clock: a step of the wall clock while the agent runs ends
// no pod before its time.
func (w *worker) began() time.Time {
	if start := w.memory.Status.StartTime; start != nil && w.since.IsZero() {
		now := time.Now()
		w.since = now.Add(-max(now.Sub(start.Time), 0))
	}
	return w.since
}

func (w *worker) input(d Desired, o Observed) status.Input {
	in := status.Input{
		Pod: d.Pod, Old: w.memory.Status, Sandboxes: o.Sandboxes, PodIPs: o.PodIPs, HostIPs: w.m.Facts().HostIPs,
		Waiting: map[string]status.Waiting{}, Probes: o.Probes, Starting: map[string]bool{},
		Again: map[string]bool{}, Pending: w.memory.Resize.Pending, Resizing: w.memory.Resize.Running, Evicted: w.memory.Evicted, Rejected: w.memory.Rejected, Disruption: w.memory.Disruption, Finished: w.memory.Finished, Now: time.Now(),
	}
	for name, past := range w.memory.Containers {
		if past.Waiting != nil {
			in.Waiting[name] = *past.Waiting
		}
		if past.Again != "" {
			in.Again[past.Again] = true
		}
	}
	for image := range podspec.VolumeImages(d.Pod) {
		for c := range podspec.All(d.Pod) {
			if why := w.memory.Containers[image.Name].Waiting; why != nil && podspec.Shows(c, image.Name) {
				in.Waiting[c.Name] = *why
			}
		}
	}
	for key, work := range o.Busy {
		if work == PostStart {
			in.Starting[key] = true
		}
	}
	in.Stopped = (d.Ending() || w.memory.Evicted != nil) && !slices.ContainsFunc(o.Sandboxes, anyRunning)
	return in
}

// address learns the addresses of a sandbox that this process did not start itself.
func (w *worker) address(ctx context.Context, d Desired, mine []seam.Sandbox) {
	if len(mine) == 0 || !mine[0].Ready || mine[0].ID == w.ipOf || d.Pod.Spec.HostNetwork || d.Ending() {
		return
	}
	a, err := w.m.Network.Attach(ctx, d.Pod)
	if err != nil {
		w.log.Error("a running pod's network cannot be taken over", "err", err)
		if len(w.ips) > 0 { // it had an address, and keeps it
			w.ipOf = mine[0].ID
		}
		return
	}
	w.ips, w.ipOf = []string{a.IP.String()}, mine[0].ID
}

// probe tells the prober what runs.
func (w *worker) probe(d Desired, mine []seam.Sandbox) {
	var targets []probe.Target
	for _, s := range mine {
		for _, o := range s.Containers {
			c, ok := podspec.Find(d.Pod, o.Name)
			if !ok || o.State != seam.Running || (c.Kind != podspec.App && c.Kind != podspec.Sidecar) {
				continue
			}
			if c.StartupProbe == nil && c.LivenessProbe == nil && c.ReadinessProbe == nil || w.jobs[o.ID] != nil && w.jobs[o.ID].kind == PostStart {
				continue
			}
			t := probe.Target{Container: c.Container, ID: o.ID, StartedAt: o.StartedAt}
			if d.Pod.Spec.HostNetwork {
				if ips := w.m.Facts().HostIPs; len(ips) > 0 {
					t.IP = ips[0]
				}
			} else if len(w.ips) > 0 {
				t.IP = w.ips[0]
			}
			for _, list := range [][]corev1.ContainerStatus{w.memory.Status.InitContainerStatuses, w.memory.Status.ContainerStatuses} {
				for _, st := range list {
					if st.ContainerID == status.ContainerIDPrefix+o.ID {
						t.Started = st.Started != nil && *st.Started
						t.Adopted = true
					}
				}
			}
			targets = append(targets, t)
		}
	}
	w.m.Prober.Set(d.Pod, targets)
}

// publish reports the status if it changed, and saves the record.
func (w *worker) publish(d Desired) {
	b, err := w.memory.Status.Marshal()
	if err != nil {
		w.log.Error("a status cannot be encoded", "err", err)
		return
	}
	w.save(d)
	if bytes.Equal(b, w.told) && w.toldEnd == w.memory.Finished {
		return
	}
	w.told, w.toldEnd = b, w.memory.Finished
	w.m.Report(d.Pod, *w.memory.Status.DeepCopy(), w.memory.Finished)
	w.mu.Lock()
	w.first = true
	w.mu.Unlock()
}

func (w *worker) looked() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.first
}

// save hands the record to the store if it changed; it is written soon.
func (w *worker) save(d Desired) {
	if b := w.changed(d); b != nil {
		w.m.Store.Queue(state.Pods, string(d.Pod.UID), b)
	}
}

// saveNow returns when the record is on the disk: what follows removes what it says.
func (w *worker) saveNow(ctx context.Context, d Desired) error {
	w.changed(d)
	return w.m.Store.Write(ctx, state.Pods, []state.Change{{Key: string(d.Pod.UID), Value: w.saved}})
}

func (w *worker) changed(d Desired) []byte {
	w.memory.Pod = d.Pod
	b, err := w.memory.encode(d.Gone)
	if err != nil {
		w.log.Error("a pod's record cannot be encoded", "err", err)
		return nil
	}
	if bytes.Equal(b, w.saved) {
		return nil
	}
	w.saved = b
	return b
}

func (w *worker) view() View {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

func (w *worker) done() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.end
}

// start runs f beside the worker; record is called by the worker when it has ended, unless other
// work has taken its place.
func (w *worker) start(ctx context.Context, key string, kind Work, f func(context.Context) error, record func(error)) {
	w.cancel(key)
	ctx, cancel := context.WithCancel(ctx)
	j := &job{kind: kind, cancel: cancel}
	w.jobs[key] = j
	w.jobsDone.Go(func() {
		defer cancel()
		err := f(ctx)
		select {
		case w.results <- func() {
			if w.jobs[key] == j {
				delete(w.jobs, key)
				record(err)
			}
		}:
		case <-ctx.Done():
		}
	})
}

func (w *worker) cancel(key string) {
	if j := w.jobs[key]; j != nil {
		j.cancel()
		delete(w.jobs, key)
	}
}

func (w *worker) stopJobs() {
	for key := range w.jobs {
		w.cancel(key)
	}
	w.jobsDone.Wait()
	if w.m.Fence != nil {
		w.m.Fence.Watch(w.box.peek().Pod.UID, false)
	}
	w.m.Prober.Remove(w.box.peek().Pod.UID)
}
