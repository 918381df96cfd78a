package link

import (
	"testing"
	"time"
)

// Signs of life come with every keepalive while a pod needs them, and the idle budget holds.
func TestHold(t *testing.T) {
	n := newNetwork(t, 1)
	src, stores := newSets(), emptyStores()
	fillSet(n.rand, src.node, "pods", 3, 500)
	n.connect(1, src, stores, nil)
	agent := n.ends[atAgent].s
	agent.started = true
	begin, given := n.now, 0
	agent.cfg.Stamp = func() time.Duration { return n.now.Sub(begin) + time.Second }
	n.ends[atServer].s.cfg.Held = func() { given++ }
	if !n.run(time.Minute, n.inStep(src)) {
		t.Fatal("not in step")
	}
	n.run(10*time.Minute, nil)
	stamp, complete := agent.Held()
	if late := n.now.Sub(begin) + time.Second - stamp; !complete || late > KeepaliveInterval+2*time.Second {
		t.Errorf("heard of %v ago, complete: %v", late, complete)
	}
	if given < 20 || given > 30 {
		t.Errorf("%d signs in 10 minutes", given)
	}
}
