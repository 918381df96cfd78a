package announce

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestEveryAddressIsAnnounced plays a link of several nodes in which nodes die, stand still, return and stop serving, and packets
// are lost. Once a node has been gone for three seconds, and packets arrive, each address that somebody serves has exactly one announcer.
func TestEveryAddressIsAnnounced(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newModel(rapid.IntRange(1, 5).Draw(t, "nodes"))
		t.Repeat(map[string]func(*rapid.T){
			"die":  func(t *rapid.T) { w.nodes[w.draw(t)].alive = false },
			"live": func(t *rapid.T) { w.start(w.draw(t)) },
			"serve": func(t *rapid.T) {
				n := w.nodes[w.draw(t)]
				n.e.serves = map[netip.Addr]bool{}
				for _, a := range w.addresses {
					if rapid.Bool().Draw(t, a.String()) {
						n.e.serves[a] = true
					}
				}
			},
			"wait": func(t *rapid.T) {
				w.lossy = rapid.Bool().Draw(t, "lossy")
				w.steps(t, rapid.IntRange(1, 10).Draw(t, "steps"))
				w.lossy = false
			},
			"settle": func(t *rapid.T) {
				w.steps(t, int(3*time.Second/interval))
				w.check(t)
			},
		})
	})
}

type modelNode struct {
	alive bool
	e     *election
}

type model struct {
	now       time.Time
	nodes     []*modelNode
	addresses []netip.Addr
	lossy     bool
}

func newModel(n int) *model {
	w := &model{now: time.Unix(1000, 0)}
	for i := range 4 {
		w.addresses = append(w.addresses, netip.AddrFrom4([4]byte{10, 0, 0, byte(200 + i)}))
	}
	for i := range n {
		w.nodes = append(w.nodes, &modelNode{})
		w.start(i)
	}
	return w
}

func (w *model) draw(t *rapid.T) int { return rapid.IntRange(0, len(w.nodes)-1).Draw(t, "node") }

func (w *model) start(i int) {
	if w.nodes[i].alive {
		return
	}
	e := newElection(w.now)
	e.self, e.known, e.serves = fmt.Sprint("n", i), map[string]bool{}, map[netip.Addr]bool{}
	for j := range w.nodes {
		e.known[fmt.Sprint("n", j)] = true
	}
	for j := len(w.nodes); j < 5; j++ {
		e.known[fmt.Sprint("n", j)] = true // nodes that were never there
	}
	for _, a := range w.addresses {
		e.serves[a] = true
	}
	*w.nodes[i] = modelNode{true, e}
}

func (w *model) steps(t *rapid.T, n int) {
	for range n {
		w.now = w.now.Add(interval)
		for _, from := range w.nodes {
			for _, to := range w.nodes {
				if from == to || !from.alive || !to.alive || w.lossy && rapid.Bool().Draw(t, "lost") {
					continue
				}
				serves := map[netip.Addr]bool{}
				for a := range from.e.serves {
					serves[a] = true
				}
				to.e.hear(from.e.self, serves, w.now)
			}
		}
	}
}

func (w *model) check(t *rapid.T) {
	for _, a := range w.addresses {
		served, announced := 0, 0
		for _, n := range w.nodes {
			if n.alive && n.e.serves[a] {
				served++
			}
			if n.alive && n.e.mine(w.now)[a] {
				announced++
			}
		}
		if want := min(served, 1); announced != want {
			t.Fatalf("%s is announced by %d nodes, want %d", a, announced, want)
		}
	}
}
