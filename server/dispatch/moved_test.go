package dispatch_test

import (
	"testing"
	"time"
)

// TestANodeThatMoves: a node with another address is connected anew at once. The connection from its old address is dead, which would
// be noticed much later.
func TestANodeThatMoves(t *testing.T) {
	c := newCluster(t)
	c.start()
	b := c.sited("pi1", "", 1)
	eventually(t, "the node is told all", func() bool { return b.u.Synced("node") && b.u.Synced("shared") })
	b.wires.kill()
	c.service("new")
	b.u.Moved()
	eventually(t, "what has changed since arrives", func() bool { return b.has("shared", "services/default/new") })
	b.wires.set(true)
	eventually(t, "the node knows that it is cut off", func() bool { return !b.u.Connected() })
	b.u.Moved() // while there is no connection
	b.wires.set(false)
	eventually(t, "the node is back", func() bool { return b.u.Connected() })
	time.Sleep(500 * time.Millisecond)
	b.wires.mu.Lock()
	defer b.wires.mu.Unlock()
	if n := len(b.wires.conns); n != 1 {
		t.Errorf("the node connected %d times, and once is enough", n)
	}
}
