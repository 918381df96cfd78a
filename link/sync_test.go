package link

import (
	"fmt"
	"math/rand"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSyncUnderLoss(t *testing.T) {
	for seed := int64(1); seed <= 16; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { syncUnderLoss(t, seed) })
	}
}

// syncUnderLoss changes sets at random while frames are lost, repeated and overtake each other,
// the transport is cut, and either side restarts; when the trouble ends, all is in step.
func syncUnderLoss(t testing.TB, seed int64) {
	n := newNetwork(t, seed)
	r := rand.New(rand.NewSource(seed + 1000))
	src, stores := newSets(), emptyStores()
	fillSet(r, src.shared, "services", r.Intn(400), 300)
	fillSet(r, src.node, "pods", r.Intn(100), 1500)
	other := NewSet()
	fillSet(r, other, "services", r.Intn(400), 250)
	number := uint32(1)
	restart := func() {
		n.connect(number, src, stores, nil)
		n.ends[atAgent].s.started = true
		number++
	}
	restart()
	n.drop, n.repeat, n.jitter = 0.3*r.Float64(), 0.2, 50*time.Millisecond
	for range 60 {
		switch r.Intn(12) {
		case 0:
			n.cut = !n.cut
			if !n.cut {
				n.ends[atAgent].s.Resume()
			}
		case 1:
			restart()
		case 2:
			src.node.Put(fmt.Sprintf("configmaps/ns/big-%d", r.Intn(3)), text(r, 200_000+r.Intn(200_000)))
		case 3, 4, 5:
			src.node.Put(fmt.Sprintf("pods/ns/pods-%d", r.Intn(120)), text(r, r.Intn(3000)))
		case 6:
			src.node.Delete(fmt.Sprintf("pods/ns/pods-%d", r.Intn(120)))
		case 7, 8:
			src.status.Put(fmt.Sprintf("pods/ns/pods-%d", r.Intn(50)), text(r, r.Intn(1000)))
		case 9:
			src.shared.Put(fmt.Sprintf("services/ns/services-%d", r.Intn(400)), text(r, 300))
		case 10: // the node is at another site now
			src.shared, other = other, src.shared
			n.ends[atServer].s.Replace(SharedSet, src.shared)
		}
		n.run(time.Duration(r.Intn(3000))*time.Millisecond, nil)
	}
	if n.cut {
		n.cut = false
		n.ends[atAgent].s.Resume()
	}
	n.drop = 0.05
	if !n.run(10*time.Minute, n.inStep(src)) {
		a := n.ends[atAgent].s
		t.Fatalf("not in step: node %v shared %v status %v, synced %v %v; %+v", src.node.Root() == stores[atAgent][NodeSet].Root(),
			src.shared.Root() == stores[atAgent][SharedSet].Root(), src.status.Root() == stores[atServer][StatusSet].Root(),
			a.Synced(NodeSet), a.Synced(SharedSet), n.ends[atServer].s.sources[0])
	}
}

// TestDifferenceIsSmall: three changed items among 5,000 are found with a few hundred bytes.
func TestDifferenceIsSmall(t *testing.T) {
	n := newNetwork(t, 7)
	src, stores := newSets(), emptyStores()
	fillSet(n.rand, src.shared, "services", 5000, 200)
	for _, key := range src.shared.Keys() {
		v, _ := src.shared.Get(key)
		stores[atAgent][SharedSet].Put(key, v)
	}
	const changed = 3
	for i := range changed {
		src.shared.Put(fmt.Sprintf("services/ns/services-%d", 1000*i), text(n.rand, 200))
	}
	n.connect(1, src, stores, nil)
	n.ends[atAgent].s.started = true
	if !n.run(time.Minute, n.inStep(src)) {
		t.Fatal("not in step")
	}
	t.Logf("%d bytes up, %d down, of which content %d", n.bytes[atServer], n.bytes[atAgent], changed*200)
	if n.bytes[atServer] > 1200 || n.bytes[atAgent] > 900+changed*200 {
		t.Errorf("%d bytes up and %d down to find %d items", n.bytes[atServer], n.bytes[atAgent], changed)
	}
}

// TestReturnAfterCut: a node that was away for two minutes gets the difference and no more, also
// when both sides were restarted.
func TestReturnAfterCut(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%v", restart), func(t *testing.T) {
			n := newNetwork(t, 3)
			src, stores := newSets(), emptyStores()
			fillSet(n.rand, src.shared, "services", 300, 600)
			fillSet(n.rand, src.node, "configmaps", 16, 64<<10)
			fillSet(n.rand, src.node, "pods", 20, 2000)
			fillSet(n.rand, src.status, "pods", 20, 1000)
			n.connect(1, src, stores, nil)
			n.ends[atAgent].s.started = true
			if !n.run(5*time.Minute, n.inStep(src)) {
				t.Fatal("not in step")
			}
			n.cut = true
			for i := range 3 {
				n.run(40*time.Second, nil)
				src.node.Put(fmt.Sprintf("configmaps/ns/small-%d", i), text(n.rand, 1000))
			}
			n.cut = false
			n.bytes = [2]int{}
			if restart {
				n.connect(2, src, stores, nil)
				n.ends[atAgent].s.started = true
			} else {
				n.ends[atAgent].s.Resume()
			}
			if !n.run(time.Minute, n.inStep(src)) {
				t.Fatal("not in step")
			}
			t.Logf("%d bytes down, %d up", n.bytes[atAgent], n.bytes[atServer])
			if n.bytes[atAgent] > 8<<10 {
				t.Errorf("%d bytes reached the node", n.bytes[atAgent])
			}
		})
	}
}

// TestDigestsTellSetsApart: two sets have the same root only if they have the same content, and a
// comparison finds just what differs.
func TestDigestsTellSetsApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		content := func(name string) map[string]string {
			return rapid.MapOfN(rapid.StringMatching(`[a-d]{1,3}`), rapid.StringMatching(`[xy]{0,2}`), 0, 90).Draw(t, name)
		}
		a, b := content("a"), content("b")
		sa, sb := NewSet(), NewIndex()
		for k, v := range a {
			sa.Put(k, []byte(v))
		}
		for k, v := range b {
			sb.Put(k, []byte(v))
			if rapid.Bool().Draw(t, "rewrite") {
				sb.Put(k, []byte("other"))
				sb.Root()
				sb.Put(k, []byte(v))
			}
		}
		same := len(a) == len(b)
		for k, v := range a {
			if w, ok := b[k]; !ok || v != w {
				same = false
			}
		}
		if (sa.Root() == sb.Root()) != same {
			t.Fatalf("roots equal: %v, contents equal: %v", !same, same)
		}
		var x salt
		marked := allLeaves()
		var e encoder
		sb.shortItems(&e, x, &marked)
		lists, err := listed(e.b, &marked)
		if err != nil {
			t.Fatal(err)
		}
		missing, excess := sa.compareItems(x, &marked, lists)
		for _, key := range sb.resolve(x, excess) {
			sb.Delete(key)
		}
		for _, it := range missing {
			sb.PutVersion(it.key, it.version)
		}
		if sa.Root() != sb.Root() {
			t.Fatal("the difference does not lead to the same set")
		}
	})
}

// TestLostConfirmation: a replica that is equal, but was not told, learns it with the next keepalive.
func TestLostConfirmation(t *testing.T) {
	n := newNetwork(t, 9)
	src, stores := newSets(), emptyStores()
	n.connect(1, src, stores, nil)
	n.ends[atAgent].s.started = true
	n.pump() // the first words are said
	n.cut = true
	n.run(100*time.Millisecond, nil) // the answers are lost
	n.cut = false
	if !n.run(time.Minute, n.inStep(src)) {
		t.Error("the agent does not know that its sets are complete")
	}
}
