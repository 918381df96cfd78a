package footprint

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

func gcPercent() uint64 {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

var garbage []byte

// A process that makes garbage fast gets room; at rest it has none.
func TestStretch(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(steadyGC))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	var s stretch
	go func() { s.run(ctx); close(ended) }()
	for deadline := time.Now().Add(30 * time.Second); gcPercent() == steadyGC; {
		if time.Now().After(deadline) {
			t.Fatal("the heap of a busy process has no more room than at rest")
		}
		for range 100 {
			garbage = make([]byte, 1<<16)
		}
	}
	s.mu.Lock()
	s.timer.Stop()
	s.last = time.Now().Add(-calm) // it has been calm
	s.mu.Unlock()
	s.relax()
	if got := gcPercent(); got != steadyGC {
		t.Errorf("%d %% at rest", got)
	}
	cancel()
	<-ended
	s.collected() // one that was under way
	if got := gcPercent(); got != steadyGC {
		t.Errorf("%d %% after the end", got)
	}
}

func TestPercentFor(t *testing.T) {
	const mib = 1 << 20
	for live, want := range map[uint64]struct{ busy, calm int }{
		0: {3200, steadyGC}, 4 * mib: {800, steadyGC}, 20 * mib: {160, steadyGC}, 100 * mib: {steadyGC, steadyGC},
		200 * mib: {40, 40}, 320 * mib: {25, 25}, 4096 * mib: {least, least},
	} {
		if busy, calm := percentFor(live, room), percentFor(live, 0); busy != want.busy || calm != want.calm {
			t.Errorf("%d bytes live: %d %% in a busy process, %d %% in a calm one, want %v", live, busy, calm, want)
		}
	}
}

// A server of many nodes is bounded where the budget is, and one of still more is not kept busy by collections.
func TestBoundFor(t *testing.T) {
	for live, want := range map[uint64]int64{0: bound, 200 << 20: bound, 300 << 20: 600 << 20} {
		if got := boundFor(live); got != want {
			t.Errorf("%d bytes live: may hold %d, want %d", live, got, want)
		}
	}
	defer debug.SetGCPercent(debug.SetGCPercent(steadyGC))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	settle(0)
	if got := debug.SetMemoryLimit(-1); got != bound {
		t.Errorf("settled at %d", got)
	}
	t.Setenv("GOMEMLIMIT", "1GiB")
	debug.SetMemoryLimit(1 << 30)
	settle(0)
	if got := debug.SetMemoryLimit(-1); got != 1<<30 {
		t.Errorf("what the operator chose became %d", got)
	}
}

// A part that starts late is collected for often, also while the process is busy, and only for a while.
func TestThriftyAgain(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(steadyGC))
	ThriftyAgain()
	settle(room) // as a busy process does
	if got := gcPercent(); got != startupGC {
		t.Errorf("%d %% while a part starts", got)
	}
	thriftyUntil.Store(time.Now().UnixNano())
	settle(0)
	if got := gcPercent(); got != steadyGC {
		t.Errorf("%d %% after that", got)
	}
}
