package probe

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/events"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/status"
)

// Config is what probes need.
type Config struct {
	Exec    func(ctx context.Context, id string, cmd []string, s seam.Streams) (int, error)
	Changed func(uid types.UID) // a result changed
	Events  *events.Recorder
}

// atOnce bounds how many probes run at the same time; the others wait, and are late.
const atOnce = 16

// Manager probes the containers of all pods.
type Manager struct {
	Config
	slots chan struct{}

	mu   sync.Mutex
	pods map[types.UID]map[string]*watch // by container ID
	wg   sync.WaitGroup
}

// New makes a manager. Close ends all probes.
func New(c Config) *Manager {
	return &Manager{Config: c, slots: make(chan struct{}, atOnce), pods: map[types.UID]map[string]*watch{}}
}

// kind is one of the three probes of a container.
type kind int

const (
	startup kind = iota
	liveness
	readiness
)

func (k kind) String() string { return [...]string{"Startup", "Liveness", "Readiness"}[k] }

// watch is the probing of one container.
type watch struct {
	m       *Manager
	pod     *corev1.Pod // as it was when probing began: only its name is used
	target  Target
	results [3]status.Result // guarded by Manager.mu
	ending  bool             // guarded by Manager.mu: the pod ends, only its readiness is still asked for
	started chan struct{}    // closed when the startup probe has succeeded
	stop    context.CancelFunc
}

// Set tells which containers of a pod run and are to be probed. Those that are missing are no
// longer probed.
func (m *Manager) Set(pod *corev1.Pod, targets []Target) {
	m.mu.Lock()
	defer m.mu.Unlock()
	watches := m.pods[pod.UID]
	seen := map[string]bool{}
	for _, t := range targets {
		seen[t.ID] = true
		w := watches[t.ID]
		if w == nil {
			if watches == nil {
				watches = map[string]*watch{}
				m.pods[pod.UID] = watches
			}
			w = m.begin(pod, t)
			watches[t.ID] = w
		}
		w.ending = w.ending || pod.DeletionTimestamp != nil
	}
	for id, w := range watches {
		if !seen[id] {
			w.stop()
			delete(watches, id)
		}
	}
	if len(watches) == 0 {
		delete(m.pods, pod.UID)
	}
}

// Remove ends the probing of a pod.
func (m *Manager) Remove(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.pods[uid] {
		w.stop()
	}
	delete(m.pods, uid)
}

// Results returns what the probes of a pod last said, by container ID.
func (m *Manager) Results(uid types.UID) map[string]status.Probes {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]status.Probes{}
	for id, w := range m.pods[uid] {
		out[id] = status.Probes{Startup: w.results[startup], Liveness: w.results[liveness], Readiness: w.results[readiness]}
	}
	return out
}

// Close ends all probes and waits for them.
func (m *Manager) Close() {
	m.mu.Lock()
	for _, watches := range m.pods {
		for _, w := range watches {
			w.stop()
		}
	}
	m.pods = map[types.UID]map[string]*watch{}
	m.mu.Unlock()
	m.wg.Wait()
}

func (m *Manager) begin(pod *corev1.Pod, t Target) *watch {
	ctx, stop := context.WithCancel(context.Background())
	w := &watch{m: m, pod: pod, target: t, started: make(chan struct{}), stop: stop}
	if t.Container.StartupProbe == nil || t.Started {
		close(w.started)
	}
	if t.Started && t.Container.StartupProbe != nil {
		w.results[startup] = status.Success
	}
	for k, p := range [...]*corev1.Probe{t.Container.StartupProbe, t.Container.LivenessProbe, t.Container.ReadinessProbe} {
		if p == nil || kind(k) == startup && t.Started {
			continue
		}
		m.wg.Go(func() { w.run(ctx, kind(k), p) })
	}
	return w
}

// run asks one probe again and again.
func (w *watch) run(ctx context.Context, k kind, p *corev1.Probe) {
	period := max(time.Duration(p.PeriodSeconds)*time.Second, time.Second)
	if k != startup {
		select {
		case <-w.started:
		case <-ctx.Done():
			return
		}
	}
	wait := time.Until(w.target.StartedAt.Add(time.Duration(p.InitialDelaySeconds) * time.Second))
	if w.target.Adopted {
		// After a restart of the agent, the probes of all pods must not come in one moment.
		wait = max(wait, time.Duration(rand.Float64()*float64(period)))
	}
	timer := time.NewTimer(max(wait, 0))
	defer timer.Stop()
	counts := streak{failure: max(int(p.FailureThreshold), 1), success: max(int(p.SuccessThreshold), 1)}
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		timer.Reset(period)
		if k != readiness && w.isEnding() {
			return
		}
		result, ok := w.ask(ctx, k, p)
		if !ok || !counts.add(result) {
			continue
		}
		w.set(k, result)
		if k == startup || k == liveness && result == status.Failure {
			return // nothing more is asked of this container: it has started, or is replaced
		}
	}
}

// streak counts equal answers.
type streak struct {
	failure, success int // thresholds
	last             status.Result
	run              int
}

// add says whether the answer counts.
func (s *streak) add(r status.Result) bool {
	if s.last != r {
		s.last, s.run = r, 0
	}
	s.run++
	if r == status.Failure {
		return s.run >= s.failure
	}
	return s.run >= s.success
}

func (w *watch) isEnding() bool {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	return w.ending
}

func (w *watch) set(k kind, r status.Result) {
	w.m.mu.Lock()
	changed := w.results[k] != r
	w.results[k] = r
	w.m.mu.Unlock()
	if k == startup && r == status.Success {
		close(w.started)
	}
	if changed && w.m.Changed != nil {
		w.m.Changed(w.pod.UID)
	}
}

// ask runs a probe once; ok is false if its answer must not count.
func (w *watch) ask(ctx context.Context, k kind, p *corev1.Probe) (status.Result, bool) {
	select {
	case w.m.slots <- struct{}{}:
		defer func() { <-w.m.slots }()
	case <-ctx.Done():
		return status.Unknown, false
	}
	var a answer
	for range 3 {
		if a = w.once(ctx, p); a.err == nil || ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return status.Unknown, false
	}
	about := events.Container(w.pod, w.target.Container.Name)
	switch {
	case a.err != nil:
		w.m.event(about, events.Unhealthy, "%s probe errored and resulted in unknown state: %v", k, a.err)
		return status.Unknown, false
	case !a.ok:
		w.m.event(about, events.Unhealthy, "%s probe failed: %s", k, a.output)
		return status.Failure, true
	case a.warning:
		w.m.event(about, events.ProbeWarning, "%s probe warning: %s", k, a.output)
	}
	return status.Success, true
}

func (m *Manager) event(about corev1.ObjectReference, reason, format string, args ...any) {
	if m.Events != nil {
		m.Events.Eventf(about, corev1.EventTypeWarning, reason, format, args...)
	}
}
