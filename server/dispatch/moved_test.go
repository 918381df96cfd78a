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
	eventually(t, 10*time.Second, "the node is told all", func() bool { return b.u.Synced("node") && b.u.Synced("shared") })
	b.wires.kill()
	c.service("new")
	b.u.Moved()
	eventually(t, 5*time.Second, "what has changed since arrives", func() bool { return b.has("shared", "services/default/new") })
}
