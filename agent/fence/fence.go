// Package fence decides what a node may still run of that which may run only once, while it does not hear of its server.
//
// The server puts another pod in the place of one on a node that it has not heard of for long enough; it cannot ask the
// node. So the node must have ended its own before. It counts from the last moment at which it asked for a sign of life
// and got one: the server gave that sign then or later, and counts from there (link.Fence).
//
// Invariants: nothing that has a fence starts before the server has been heard of, and has said all that it wants, since
// this agent began or since the fence was passed; a sign that comes late never counts for later than it was asked for;
// the clock is one that nobody sets and that counts while the machine sleeps. What runs is also in the shim's hands
// (Verdict.KillAt), because the agent itself may die.
//
//	f := fence.New(fence.Config{Clock: fence.Boottime, Claim: claims, Wake: pods.Wake, Ask: uplink.Notify})
//	var guard fence.Guard // one a pod
//	v := guard.Look(limit, f.Signs())
package fence

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/link"
)

// Config is what a fence works with.
type Config struct {
	Clock func() time.Duration
	Claim func(namespace, name string) (*corev1.PersistentVolumeClaim, bool)
	Wake  func(uid types.UID) // a pod's worker should look again
	Ask   func()              // the server should be asked for a sign of life
}

// Fence is what the node knows of its server's signs of life.
type Fence struct {
	cfg    Config
	opened time.Duration

	mu       sync.Mutex
	heard    time.Duration
	complete time.Duration
	pods     map[types.UID]bool
}

// New makes a fence; nothing has been heard yet.
func New(c Config) *Fence { return &Fence{cfg: c, opened: c.Clock(), pods: map[types.UID]bool{}} }

// Boottime is the time since the machine was booted, its sleep included.
func Boottime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // every kernel since 2.6.39 has it
	}
	return time.Duration(t.Nano())
}

// For is the fence of a pod, which may have told the server of one before.
func (f *Fence) For(pod *corev1.Pod, told []corev1.PodCondition) (link.Fence, bool) {
	before, had := link.FenceTold(told)
	limit, ok := link.FenceFor(pod, f.cfg.Claim)
	switch {
	case !ok && had:
		return link.Fence{Stop: before, Kill: before}, true
	case !ok:
		return link.Fence{}, false
	}
	return limit.Within(before), true
}

// Watch says that a pod has a fence, or has none any more.
func (f *Fence) Watch(uid types.UID, fenced bool) {
	f.mu.Lock()
	had := f.pods[uid]
	if fenced {
		f.pods[uid] = true
	} else {
		delete(f.pods, uid)
	}
	f.mu.Unlock()
	if fenced && !had {
		f.cfg.Ask()
	}
}

// Stamp is what the server is asked for a sign of life with; 0 if no pod needs one.
func (f *Fence) Stamp() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.pods) == 0 {
		return 0
	}
	return f.cfg.Clock()
}

// Held takes the newest stamp that the server has answered; complete when all that it wanted then has arrived.
func (f *Fence) Held(stamp time.Duration, complete bool) {
	f.mu.Lock()
	changed := stamp > f.heard || complete && stamp > f.complete
	f.heard = max(f.heard, stamp)
	if complete {
		f.complete = max(f.complete, stamp)
	}
	var wake []types.UID
	for uid := range f.pods {
		wake = append(wake, uid)
	}
	f.mu.Unlock()
	if !changed {
		return
	}
	for _, uid := range wake {
		f.cfg.Wake(uid)
	}
}

// Signs are what a verdict is made from, on the clock of Config.
type Signs struct {
	Opened, Now     time.Duration
	Heard, Complete time.Duration // 0: not since the agent began
}

// Signs of life up to now.
func (f *Fence) Signs() Signs {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Signs{Opened: f.opened, Now: f.cfg.Clock(), Heard: f.heard, Complete: f.complete}
}

// Guard remembers of one pod when its fence was last passed.
type Guard struct {
	lapsed time.Duration
	cut    bool
}

// Verdict is what may be done with a pod; the zero value is that of one without a fence.
type Verdict struct {
	Fenced bool
	Held   bool          // nothing of it may be started
	Cut    bool          // it must be ended, to be started again when the server wants it still
	Armed  bool          // its shim will kill it in time; set by who arms it
	KillAt time.Duration // when the shim is to kill it; 0: as it was told before
	Look   time.Duration // look again after this time; 0: not before a sign
}

// Look judges a pod.
func (g *Guard) Look(limit link.Fence, s Signs) Verdict {
	if g.lapsed == 0 {
		g.lapsed = s.Opened
	}
	fresh := s.Heard > 0 && s.Now < s.Heard+limit.Stop
	switch {
	case s.Heard > 0 && !fresh:
		g.cut, g.lapsed = true, s.Now
	case s.Complete > g.lapsed:
		g.cut = false
	}
	v := Verdict{Fenced: true, Held: !fresh || g.cut || s.Complete <= g.lapsed, Cut: g.cut}
	if fresh && !g.cut {
		v.KillAt, v.Look = s.Heard+limit.Kill, s.Heard+limit.Stop-s.Now
	}
	return v
}
