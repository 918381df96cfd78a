package link

import (
	"bytes"
	"container/heap"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand"
	"testing"
	"time"
)

// network carries frames between two sessions in virtual time, and harms them as a seed says.
type network struct {
	t      testing.TB
	rand   *rand.Rand
	now    time.Time
	queue  frames
	ends   [2]*end
	delay  time.Duration // one way
	jitter time.Duration
	drop   float64
	repeat float64
	rate   float64 // bytes a second; 0: no limit
	free   [2]time.Time
	cut    bool
	n      int
	bytes  [2]int // that reached an end
	log    func(to int, frame []byte)
	spins  int
}

// end is one side: its session, and what was applied there.
type end struct {
	s      *Session
	stored map[SetID]*Set
}

type frame struct {
	at   time.Time
	n    int
	to   int
	data []byte
}

type frames []frame

func (f frames) Len() int { return len(f) }
func (f frames) Less(i, j int) bool {
	return f[i].at.Before(f[j].at) || f[i].at.Equal(f[j].at) && f[i].n < f[j].n
}
func (f frames) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f *frames) Push(x any)   { *f = append(*f, x.(frame)) }
func (f *frames) Pop() any {
	old := *f
	x := old[len(old)-1]
	*f = old[:len(old)-1]
	return x
}

const (
	atServer = 0
	atAgent  = 1
)

type sets struct{ node, shared, status *Set }

func testKeys(n uint32) (server, agent Keys) {
	server = Keys{Version: 1, Session: n}
	for i := range server.Send {
		server.Send[i], server.Receive[i] = byte(i)+byte(n), byte(100+i)+byte(n)
	}
	return server, Keys{Version: 1, Session: n, Send: server.Receive, Receive: server.Send}
}

func newNetwork(t testing.TB, seed int64) *network {
	return &network{t: t, rand: rand.New(rand.NewSource(seed)), now: time.Unix(1700000000, 0), delay: 20 * time.Millisecond}
}

// connect makes new sessions over sets of the server and the agent, and the replicas they hold.
func (n *network) connect(number uint32, source sets, stored [2]map[SetID]*Set, accept func(*Stream)) {
	server, agent := testKeys(number)
	salt := func(b []byte) { binary.BigEndian.PutUint32(b, n.rand.Uint32()) }
	index := func(at int, id SetID) *Set { return stored[at][id].Index() }
	n.ends[atServer] = &end{stored: stored[atServer], s: NewSession(SessionConfig{
		Keys: server, rand: salt, Accept: accept,
		Sources:  map[SetID]*Set{NodeSet: source.node, SharedSet: source.shared},
		Replicas: map[SetID]*Set{StatusSet: index(atServer, StatusSet)},
	})}
	n.ends[atAgent] = &end{stored: stored[atAgent], s: NewSession(SessionConfig{
		Keys: agent, Agent: true, rand: salt, Accept: accept,
		Sources:  map[SetID]*Set{StatusSet: source.status},
		Replicas: map[SetID]*Set{NodeSet: index(atAgent, NodeSet), SharedSet: index(atAgent, SharedSet)},
	})}
	n.queue = nil
}

func emptyStores() [2]map[SetID]*Set {
	return [2]map[SetID]*Set{{StatusSet: NewSet()}, {NodeSet: NewSet(), SharedSet: NewSet()}}
}

func (n *network) pump() {
	for more := true; more; {
		more = false
		for i, e := range n.ends {
			for b, ok := e.s.Work(); ok; b, ok = e.s.Work() {
				for _, c := range b.Changes {
					if c.Value == nil {
						e.stored[b.Set].Delete(c.Key)
					} else {
						e.stored[b.Set].Put(c.Key, bytes.Clone(c.Value))
					}
				}
				e.s.Applied(b)
			}
			for f, ok := e.s.Next(n.now); ok; f, ok = e.s.Next(n.now) {
				more = true
				if len(f) > MaxFrame {
					n.t.Fatalf("frame of %d bytes", len(f))
				}
				n.send(1-i, f)
			}
		}
	}
}

func (n *network) send(to int, f []byte) {
	if n.cut || n.rand.Float64() < n.drop {
		return
	}
	copies := 1
	if n.rand.Float64() < n.repeat {
		copies++
	}
	for range copies {
		at := n.now
		if n.rate > 0 {
			start := n.now
			if n.free[to].After(start) {
				start = n.free[to]
			}
			at = start.Add(time.Duration(float64(len(f)) / n.rate * float64(time.Second)))
			n.free[to] = at
		}
		at = at.Add(n.delay)
		if n.jitter > 0 {
			at = at.Add(time.Duration(n.rand.Int63n(int64(n.jitter))))
		}
		n.n++
		heap.Push(&n.queue, frame{at, n.n, to, f})
	}
}

// run lets time pass until done or the limit.
func (n *network) run(limit time.Duration, done func() bool) bool {
	end := n.now.Add(limit)
	for {
		n.pump()
		if done != nil && done() {
			return true
		}
		next := end
		if len(n.queue) > 0 && n.queue[0].at.Before(next) {
			next = n.queue[0].at
		}
		for _, e := range n.ends {
			if at := e.s.Deadline(n.now); !at.IsZero() && at.Before(next) {
				next = at
			}
		}
		if !next.Before(end) {
			n.now = end
			return false
		}
		if !next.After(n.now) {
			// A deadline that stays in the past makes a driver spin.
			if n.spins++; n.spins > 50 {
				n.t.Fatalf("spinning: %v at %v; %+v %+v", next, n.now, n.ends[0].s.pace, n.ends[1].s.pace)
			}
			next = n.now.Add(time.Millisecond)
		} else {
			n.spins = 0
		}
		n.now = next
		for len(n.queue) > 0 && !n.queue[0].at.After(n.now) {
			f := heap.Pop(&n.queue).(frame)
			n.bytes[f.to] += len(f.data)
			if n.log != nil {
				n.log(f.to, f.data)
			}
			_ = n.ends[f.to].s.Receive(f.data, n.now)
		}
	}
}

func (n *network) inStep(source sets) func() bool {
	return func() bool {
		return source.node.Root() == n.ends[atAgent].stored[NodeSet].Root() &&
			source.shared.Root() == n.ends[atAgent].stored[SharedSet].Root() &&
			source.status.Root() == n.ends[atServer].stored[StatusSet].Root() &&
			n.ends[atAgent].s.Synced(NodeSet) && n.ends[atAgent].s.Synced(SharedSet) && n.ends[atServer].s.Synced(StatusSet)
	}
}

func fillSet(r *rand.Rand, s *Set, prefix string, count, size int) {
	for i := range count {
		s.Put(fmt.Sprintf("%s/ns/%s-%d", prefix, prefix, i), text(r, size))
	}
}

// text is bytes that compress about as well as objects do.
func text(r *rand.Rand, size int) []byte {
	var b bytes.Buffer
	for b.Len() < size {
		fmt.Fprintf(&b, "key-%d: value-%x\n", r.Intn(100), r.Int63())
	}
	return b.Bytes()[:size]
}

func newSets() sets { return sets{NewSet(), NewSet(), NewSet()} }

func TestSyncFirstContactAndChange(t *testing.T) {
	n := newNetwork(t, 1)
	src, stores := newSets(), emptyStores()
	fillSet(n.rand, src.node, "configmaps", 200, 2000)
	fillSet(n.rand, src.shared, "services", 300, 500)
	fillSet(n.rand, src.status, "pods", 30, 800)
	n.connect(1, src, stores, nil)
	n.ends[atAgent].s.started = true
	if !n.run(time.Minute, n.inStep(src)) {
		t.Fatalf("not in step: %d %d", stores[atAgent][NodeSet].Len(), stores[atAgent][SharedSet].Len())
	}
	t.Logf("first contact: %d bytes down, %d up, %v", n.bytes[atAgent], n.bytes[atServer], n.now.Sub(time.Unix(1700000000, 0)))
	n.run(time.Minute, nil)
	n.bytes = [2]int{}
	value := text(n.rand, 4000)
	src.node.Put("configmaps/ns/configmaps-7", value)
	src.node.Put("configmaps/ns/configmaps-7", value)
	if !n.run(time.Minute, n.inStep(src)) {
		t.Fatal("change did not arrive")
	}
	n.run(time.Second, nil)
	t.Logf("one change of %d bytes (%d compressed): %d bytes down, %d up", len(value), len(deflateStrong(value)), n.bytes[atAgent], n.bytes[atServer])
}

var _ = io.EOF
