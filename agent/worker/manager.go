package worker

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/events"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/state"
	"bramble.dev/agent/status"
)

// Manager has a worker for each pod.
type Manager struct {
	Config
	slots chan struct{} // bounds how many sandboxes and containers are started at once
	pulls pulls

	mu       sync.Mutex
	desired  map[types.UID]*corev1.Pod
	workers  map[types.UID]*worker
	memories map[types.UID]Memory // of pods that have no worker yet
	wishes   map[types.UID]wish   // of pods that wait to be resized
	running  context.Context      // nil until Run, and after it
	wg       sync.WaitGroup
	set      chan struct{} // closed by the first Set
}

// New makes a manager and loads what was remembered.
func New(c Config) (*Manager, error) {
	records, err := c.Store.Load(state.Pods)
	if err != nil {
		return nil, fmt.Errorf("load the pods' records: %w", err)
	}
	m := &Manager{
		Config:  c,
		slots:   make(chan struct{}, max(4, 2*runtime.NumCPU())),
		pulls:   pulls{from: map[string]*registry{}},
		desired: map[types.UID]*corev1.Pod{}, workers: map[types.UID]*worker{}, memories: map[types.UID]Memory{}, wishes: map[types.UID]wish{},
		set: make(chan struct{}),
	}
	for uid, b := range records {
		memory, err := decode(b)
		if err != nil {
			c.Logger.Error("a pod's record cannot be read; the runtime is asked instead", "uid", uid, "err", err)
			continue
		}
		m.memories[types.UID(uid)] = memory
	}
	return m, nil
}

// Set tells all pods that this node should run. Those that are missing are ended and forgotten. It
// must not be called before what the server wants has been loaded: whatever runs and is not in it
// is a leftover.
func (m *Manager) Set(pods []*corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	desired := make(map[types.UID]*corev1.Pod, len(pods))
	for _, pod := range pods {
		desired[pod.UID] = pod
	}
	m.desired = desired
	select {
	case <-m.set:
	default:
		close(m.set)
	}
	if m.running != nil {
		m.reconcile()
	}
}

// reconcile has a worker for each desired pod, and tells the others that theirs is gone.
func (m *Manager) reconcile() {
	for _, pod := range m.sorted() {
		if w := m.workers[pod.UID]; w != nil {
			w.box.put(pod)
			continue
		}
		m.begin(pod, false)
	}
	for uid, w := range m.workers {
		if m.desired[uid] == nil {
			w.box.gone()
		}
	}
}

func (m *Manager) sorted() []*corev1.Pod {
	out := make([]*corev1.Pod, 0, len(m.desired))
	for _, pod := range m.desired {
		out = append(out, pod)
	}
	slices.SortFunc(out, func(a, b *corev1.Pod) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(string(a.UID), string(b.UID))
	})
	return out
}

func (m *Manager) begin(pod *corev1.Pod, gone bool) {
	memory := m.memories[pod.UID]
	delete(m.memories, pod.UID)
	w := newWorker(m, pod, memory)
	if m.Admit != nil && !gone && memory.Status.StartTime == nil && pod.Status.StartTime == nil {
		if why := m.Admit(pod, m.active(pod.UID)); why != nil {
			m.Events.Event(events.Pod(pod), corev1.EventTypeWarning, why.Reason, why.Message)
			w.memory.Evicted = &status.Waiting{Reason: why.Reason, Message: "Pod was rejected: " + why.Message}
			w.memory.Rejected = true
		}
	}
	if gone {
		w.box.gone()
	}
	m.workers[pod.UID] = w
	ctx := m.running
	m.wg.Go(func() {
		forgotten := w.run(ctx)
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.workers, pod.UID)
		delete(m.wishes, pod.UID)
		m.wakeWishes()
		// It may be wanted again, if it came back while it was being ended.
		if back := m.desired[pod.UID]; forgotten && back != nil && ctx.Err() == nil {
			m.begin(back, false)
		}
	})
}

// active are the pods, but one, that use resources. One that was deleted by force is none of them, as for the kubelet: whoever put
// another in its place (`kubectl replace --force --grace-period=0`) has been told that it may still run, and the other would fail for ever.
func (m *Manager) active(but types.UID) []*corev1.Pod {
	var out []*corev1.Pod
	for uid, w := range m.workers {
		if uid != but && m.desired[uid] != nil && !w.done() {
			v := w.view()
			pod := *v.Pod // with what its cgroups still have, should it shrink
			pod.Status = v.Status
			out = append(out, &pod)
		}
	}
	return out
}

// Run works until ctx is done; the pods go on running. It waits for the first Set.
func (m *Manager) Run(ctx context.Context) error {
	select {
	case <-m.set:
	case <-ctx.Done():
		return nil
	}
	defer m.wg.Wait()
	if err := m.adopt(ctx); err != nil {
		return err
	}
	defer func() {
		m.mu.Lock()
		m.running = nil
		m.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case uid := <-m.Runtime.Changes():
			m.Wake(types.UID(uid))
		}
	}
}

// adopt starts the workers: for what is desired, and to end what is left of other pods.
func (m *Manager) adopt(ctx context.Context) error {
	sandboxes, err := m.Runtime.List(ctx)
	if err != nil {
		return fmt.Errorf("list what runs: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running = ctx
	m.reconcile()
	left := map[types.UID]*corev1.Pod{}
	for uid, memory := range m.memories {
		if memory.Pod != nil {
			left[uid] = memory.Pod
		} else {
			left[uid] = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}}
		}
	}
	for _, s := range sandboxes {
		if p := left[s.PodUID]; m.workers[s.PodUID] == nil && (p == nil || p.Name == "") {
			left[s.PodUID] = skeleton(s)
		}
	}
	for _, pod := range left {
		m.Logger.Info("ending a pod that is no longer wanted", "namespace", pod.Namespace, "pod", pod.Name, "uid", pod.UID)
		m.begin(pod, true)
	}
	return nil
}

// skeleton is what can be said of a pod of which only its sandbox is left.
func skeleton(s seam.Sandbox) *corev1.Pod {
	grace := int64(1)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name, UID: s.PodUID},
		Spec:       corev1.PodSpec{TerminationGracePeriodSeconds: &grace, RestartPolicy: corev1.RestartPolicyNever},
	}
	for _, c := range s.Containers {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: c.Name, Image: c.Image})
	}
	return pod
}

// Wake makes a pod's worker look again.
func (m *Manager) Wake(uid types.UID) {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w != nil {
		w.box.wake()
	}
}

// ObjectsChanged tells the workers of a namespace's pods that an object that they may refer to, or
// an image, has changed: volumes are refreshed, and what failed is tried again. An empty namespace
// means all.
func (m *Manager) ObjectsChanged(namespace string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		if namespace == "" || w.box.peek().Pod.Namespace == namespace {
			w.box.objectsChanged()
		}
	}
}

// Settled returns when every pod has been looked at once, or ctx is done: what is reported then is
// how things are, and not how they are found.
func (m *Manager) Settled(ctx context.Context) {
	for {
		m.mu.Lock()
		wait := m.running == nil
		for _, w := range m.workers {
			wait = wait || !w.looked()
		}
		m.mu.Unlock()
		if !wait {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}

// Refresh makes a pod's volumes be refreshed.
func (m *Manager) Refresh(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.workers[uid]; w != nil {
		w.box.objectsChanged()
	}
}

// View is what a worker last saw of its pod.
type View struct {
	Pod       *corev1.Pod
	Status    corev1.PodStatus
	Sandboxes []seam.Sandbox // newest first
	Ending    bool           // it is being ended
	Finished  bool           // nothing of it is left but the record
}

// Pod returns the pod of that name; with an empty UID, the one that the server wants now.
func (m *Manager) Pod(namespace, name string, uid types.UID) (View, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found View
	ok := false
	for id, w := range m.workers {
		v := w.view()
		if v.Pod.Namespace != namespace || v.Pod.Name != name || (uid != "" && uid != id) {
			continue
		}
		if !ok || m.desired[id] != nil {
			found, ok = v, true
		}
	}
	return found, ok
}

// Pods returns all pods.
func (m *Manager) Pods() []View {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []View
	for _, w := range m.workers {
		out = append(out, w.view())
	}
	slices.SortFunc(out, func(a, b View) int {
		return strings.Compare(a.Pod.Namespace+"/"+a.Pod.Name, b.Pod.Namespace+"/"+b.Pod.Name)
	})
	return out
}
