package shortage

import (
	"context"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/events"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/status"
	"bramble.dev/agent/worker"
)

// The kubelet's times.
const (
	look              = 10 * time.Second
	DefaultTransition = 5 * time.Minute
	collectEvery      = 5 * time.Minute
	endPatience       = 30 * time.Second // of an evicted pod
)

// The part of the images' file system that may be used, in percent: above the first, images are removed until it is below the second.
const (
	DefaultHigh = 85
	DefaultLow  = 80
)

// plenty is so much free space that no image need go, whatever part of a large disk it is.
const plenty = 20 << 30

// Times that are ours: disks of boards are slow, and cards wear out.
const (
	measureEvery = 20 * time.Second // that pods are measured, at most
	measureFor   = 20 * time.Second // that one measurement may take
	measureShare = 200              // how much longer than a measurement the pause after it is
	tellEvery    = time.Hour        // that a disk which stays full is told of
)

// Images is what the guard asks of the images.
type Images interface {
	List(ctx context.Context) ([]seam.Image, error)
	Resolve(ctx context.Context, ref string) (seam.Image, bool)
	Remove(ctx context.Context, id string) error
	// MarkUsed notes that a pod used an image until now.
	MarkUsed(id string, at time.Time)
	// Reclaim removes what only spares work.
	Reclaim() error
}

// Config is what a guard works with.
type Config struct {
	Node       string
	Thresholds []Threshold
	Transition time.Duration // that a condition stays after its shortage
	High, Low  int           // percent of the images' file system
	Age        time.Duration // for which an image is kept in any case
	Levels     func() Levels
	Pods       func() []worker.View
	Evict      func(types.UID, worker.Eviction) bool
	Stats      func(context.Context) ([]seam.PodStats, error)
	Images     Images
	Folders    func(worker.View) Folders
	Events     *events.Recorder
	// Ready says whether Pods are all that this node is to run: before that nobody knows what is needed.
	Ready   func() bool
	Changed func() // the pressure
	Logger  *slog.Logger
}

// Guard looks after what the board has left. All but pressure belongs to the goroutine of Run.
type Guard struct {
	Config
	conditions conditions
	met        map[Signal]bool      // when it last looked
	rest       map[Signal]time.Time // until when no pods are measured, because none was worth it

	inUse     map[string]bool      // images, when it last looked
	collected time.Time            // images
	told      map[string]time.Time // when a reason for that they could not be was told
	failing   bool
	measured  time.Time // pods with limits
	pause     time.Duration

	mu       sync.Mutex
	pressure status.Pressure
}

// New makes a guard that has looked once.
func New(c Config) *Guard {
	if c.Transition == 0 {
		c.Transition = DefaultTransition
	}
	if c.Age == 0 {
		c.Age = DefaultAge
	}
	g := &Guard{Config: c, conditions: conditions{}, met: map[Signal]bool{}, rest: map[Signal]time.Time{}, told: map[string]time.Time{}}
	g.observe(time.Now())
	return g
}

// Pressure is what the board is short of.
func (g *Guard) Pressure() status.Pressure {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pressure
}

// Run guards until ctx is done.
func (g *Guard) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		wait := look
		if g.look(ctx, time.Now()) {
			wait = 0 // what was done may not have been enough
		}
		timer.Reset(wait)
	}
}

// observe reads the levels, and keeps the pressure.
func (g *Guard) observe(now time.Time) (Levels, []Threshold) {
	l := g.Levels()
	met := short(g.Thresholds, l)
	g.conditions.note(met, now)
	p := g.conditions.since(g.Transition, now)
	g.mu.Lock()
	changed := g.pressure != p
	g.pressure = p
	g.mu.Unlock()
	if changed && g.Changed != nil {
		g.Changed()
	}
	return l, met
}

// look does what is due, and says whether a pod was ended for it.
func (g *Guard) look(ctx context.Context, now time.Time) (evicted bool) {
	l, met := g.observe(now)
	if !g.Ready() {
		return false
	}
	views := g.Pods()
	g.noteImages(ctx, views, now)
	if g.limits(ctx, views, l, now) {
		return true
	}
	g.collect(ctx, views, l, now)
	before := g.met
	g.met = map[Signal]bool{}
	for _, t := range met {
		g.met[t.Signal] = true
	}
	for _, t := range met {
		if g.relieve(ctx, views, t, !before[t.Signal], now) {
			return true
		}
	}
	return false
}

// relieve does something about a threshold that is met, and says whether it ended a pod.
func (g *Guard) relieve(ctx context.Context, views []worker.View, t Threshold, news bool, now time.Time) bool {
	if t.Signal.disk() && !g.meets(t) {
		return false // the images that went by their age were enough
	}
	if news {
		g.attempt(t)
		delete(g.rest, t.Signal)
	}
	if now.Before(g.rest[t.Signal]) {
		return false
	}
	begun := time.Now()
	spare := []seam.Image{}
	if t.Signal.disk() {
		if spare = g.reclaim(ctx, views, t, now); !g.meets(t) {
			g.Logger.Info("the disk has room again", "signal", string(t.Signal))
			return false
		}
	}
	l := g.Levels()
	list := g.use(ctx, views, t)
	first := worthwhile(list, t.Signal, l.Split)
	level := l.Of[t.Signal]
	missing := t.of(level.Capacity) - level.Available
	if len(spare) > 0 && (len(first) == 0 || first[0].of(t.Signal, l.Split) < missing) {
		// Ending the first would not be enough.
		if g.removeImported(ctx, spare, t); !g.meets(t) {
			return false
		}
	}
	for _, u := range first {
		if g.evict(ctx, u, message(t, level, u), true) {
			if !news {
				g.attempt(t)
			}
			return true
		}
	}
	if t.Signal.disk() {
		g.rest[t.Signal] = now.Add(max(measureEvery, measureShare*time.Since(begun)))
	}
	if news {
		g.Logger.Warn("the board is short of something, and there is no pod whose end would help", "signal", string(t.Signal), "available", level.Available, "threshold", t.of(level.Capacity))
	}
	return false
}

func (g *Guard) attempt(t Threshold) {
	g.Events.Eventf(events.Node(g.Node), corev1.EventTypeWarning, events.EvictionThresholdMet, "Attempting to reclaim %s", t.Signal.resource())
}

// meets says whether a threshold is met now.
func (g *Guard) meets(t Threshold) bool { return len(short([]Threshold{t}, g.Levels())) > 0 }

// use asks what pods use of what is short.
func (g *Guard) use(ctx context.Context, views []worker.View, t Threshold) []*Use {
	var list []*Use
	counted := map[types.UID]seam.PodStats{}
	if stats, err := g.Stats(ctx); err == nil {
		for _, p := range stats {
			counted[p.PodUID] = p
		}
	}
	ctx, cancel := context.WithTimeout(ctx, measureFor)
	defer cancel()
	for _, v := range views {
		if v.Ending || v.Finished || status.Terminal(v.Status.Phase) || len(v.Sandboxes) == 0 {
			continue
		}
		u := &Use{Pod: v.Pod}
		if p, ok := counted[v.Pod.UID]; ok {
			u.count(p)
		}
		if t.Signal.disk() {
			u.measure(ctx, g.Folders(v))
		}
		list = append(list, u)
	}
	return list
}

// evict ends a pod and waits a while for its end: before that nobody knows what it gave back.
func (g *Guard) evict(ctx context.Context, u *Use, why string, disruption bool) bool {
	if critical(u.Pod) {
		return false
	}
	e := worker.Eviction{Message: why}
	if disruption {
		e.Disruption = &corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: why,
			ObservedGeneration: u.Pod.Generation, LastTransitionTime: metav1.Now().Rfc3339Copy(),
		}
	}
	if !g.Evict(u.Pod.UID, e) {
		return false
	}
	g.Logger.Warn("a pod is evicted", "namespace", u.Pod.Namespace, "pod", u.Pod.Name, "message", why)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(endPatience); time.Now().Before(end) && !g.gone(u.Pod.UID); {
		select {
		case <-ctx.Done():
			return true
		case <-tick.C:
		}
	}
	return true
}

func (g *Guard) gone(uid types.UID) bool {
	for _, v := range g.Pods() {
		if v.Pod.UID == uid {
			return v.Finished
		}
	}
	return true
}

// limits evicts pods that have exceeded limits of their own on the disk, and says whether there were any.
func (g *Guard) limits(ctx context.Context, views []worker.View, l Levels, now time.Time) bool {
	if now.Sub(g.measured) < max(measureEvery, g.pause) && !g.measured.IsZero() {
		return false
	}
	evicted, took := false, time.Duration(0)
	for _, v := range views {
		if v.Ending || v.Finished || status.Terminal(v.Status.Phase) || !limited(v.Pod) {
			continue
		}
		u := &Use{Pod: v.Pod}
		slice, cancel := context.WithTimeout(ctx, measureFor)
		begun := time.Now()
		u.measure(slice, g.Folders(v))
		took += time.Since(begun)
		cancel()
		if why := exceeded(u, l.Split); why != "" && g.evict(ctx, u, why, false) {
			evicted = true
		}
	}
	g.measured, g.pause = now, measureShare*took
	return evicted
}
