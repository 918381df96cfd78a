package dispatch_test

import (
	"fmt"
	"testing"
	"time"

	"bramble.dev/link"
)

// BenchmarkIndex reports what an agent's index of 5,000 items costs.
//
//	go test ./server/dispatch -run xxx -bench Index
func BenchmarkIndex(b *testing.B) {
	for b.Loop() {
		before := heap()
		x := link.NewIndex()
		for i := range 5000 {
			x.Put(fmt.Sprintf("services/default/service-%d", i), []byte{byte(i)})
		}
		x.Root()
		b.ReportMetric(float64(heap()-before)/5000, "B/item")
		_ = x.Len()
	}
}

// TestIdleMemory: what the link of one agent and its server holds when all is quiet.
func TestIdleMemory(t *testing.T) {
	c := newCluster(t)
	for i := range 300 {
		c.service(fmt.Sprint("service-", i))
	}
	c.start()
	before := heap()
	b := c.board("pi1")
	b.start(c, c.token)
	eventually(t, "synced", func() bool { return b.u.Synced("node") && b.u.Synced("shared") && b.sets["shared"].Len() > 300 })
	time.Sleep(200 * time.Millisecond)
	grown := heap() - before
	t.Logf("a connected node with 301 items costs %d KiB of heap, both ends and the board's own copy of the sets included", grown>>10)
	if grown > 4<<20 {
		t.Error("more than 4 MiB")
	}
}
