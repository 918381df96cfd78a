package dispatch

import (
	"sync"
	"sync/atomic"
	"testing"
)

// No more work at a time than there are turns, and each has its result when do returns.
func TestTurns(t *testing.T) {
	const most, askers = 3, 50
	turns := make(turns, most)
	var now, peak atomic.Int32
	var all sync.WaitGroup
	for range askers {
		all.Go(func() {
			done := false
			turns.do(func() {
				n := now.Add(1)
				defer now.Add(-1)
				for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
				}
				done = true
			})
			if !done {
				t.Error("do returned before the work was done")
			}
		})
	}
	all.Wait()
	if p := peak.Load(); p > most {
		t.Errorf("%d at a time, want at most %d", p, most)
	}
	if len(turns) != 0 {
		t.Errorf("%d turns are still taken", len(turns))
	}
}
