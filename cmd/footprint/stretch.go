package footprint

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"
)

// A server whose heap of 20 MiB may grow by 12 before it is collected spends a seventh of its processor time on
// collections when it is busy. So the heap may grow further then, and is made small again seconds after.
//
// The heap of a server of a thousand nodes, 200 MiB and more, may grow by less than steadyGC gives: it has the processor for
// that, and a budget of memory too. What the runtime holds (that heap, stacks, and pages that are free for now) is bounded as well: towards the bound it
// gives free pages back to the kernel at once, of which there are 60 MiB in a rollout of 1,000 pods, and collects more often.
const (
	room  = 32 << 20         // bytes that the heap of a busy process may grow by, where steadyGC gives less
	most  = 80 << 20         // bytes that a heap may grow by, where steadyGC gives more
	least = 20               // percent, however large the heap is
	bound = 400 << 20        // bytes that the runtime holds, unless twice the live heap is more
	often = time.Second      // between two collections: the process is busy
	calm  = 10 * time.Second // without a collection: it no longer is

	// thrift is how long a part that starts late makes what stays.
	thrift = 15 * time.Second
)

var thriftyUntil atomic.Int64 // Unix nanoseconds

// ThriftyAgain collects often for a while, as while the program started: a part of it starts now, and what it makes, which stays, would
// be spread among garbage. Ten definitions of custom resources leave 5 MiB less in memory with it (scripts/bench api).
func ThriftyAgain() {
	thriftyUntil.Store(time.Now().Add(thrift).UnixNano())
	debug.SetGCPercent(startupGC)
	time.AfterFunc(thrift, func() { settle(0) })
}

// settle sets what the heap may grow by, unless that is to be little for now.
func settle(room uint64) {
	live := live()
	if os.Getenv("GOMEMLIMIT") == "" { // whoever starts the process may have said what it may hold
		debug.SetMemoryLimit(boundFor(live))
	}
	if time.Now().UnixNano() >= thriftyUntil.Load() {
		debug.SetGCPercent(percentFor(live, room))
	}
}

// stretch is the state of a heap that may grow further. It does nothing, not even look, while nothing is collected.
type stretch struct {
	mu    sync.Mutex
	last  time.Time
	timer *time.Timer // runs while the process is busy
	over  bool
}

// Stretch lets the heap grow further while the process is busy, until ctx ends. It begins after Keep.
func Stretch(ctx context.Context) { new(stretch).run(ctx) }

func (s *stretch) run(ctx context.Context) {
	s.afterNext()
	<-ctx.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

// afterNext calls collected after the next collection: the object that it makes is the first to go.
func (s *stretch) afterNext() {
	runtime.AddCleanup(new([64]byte), (*stretch).collected, s)
}

func (s *stretch) collected() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.afterNext()
	now := time.Now()
	busy := now.Sub(s.last) < often
	s.last = now
	switch {
	case s.timer != nil:
		s.timer.Reset(calm)
	case busy:
		s.timer = time.AfterFunc(calm, s.relax)
	default:
		return
	}
	settle(room)
}

// relax ends the busy phase.
func (s *stretch) relax() {
	s.mu.Lock()
	s.timer = nil
	over := s.over
	s.mu.Unlock()
	if !over {
		settle(0)
		debug.FreeOSMemory()
	}
}

// percentFor gives a heap with so many live bytes what it may grow by: steadyGC percent, within its bounds, and no less than
// room. Below a MiB it is all the same, and must fit the int of a 32-bit board.
func percentFor(live, room uint64) int {
	live = max(live, 1<<20)
	return max(least, min(steadyGC, int(most*100/live)), int(room*100/live))
}

// boundFor gives a process with so many live bytes what its runtime may hold: never so little that it does nothing but collect.
func boundFor(live uint64) int64 { return int64(max(bound, 2*live)) }

func live() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
