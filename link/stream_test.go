package link

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand"
	"testing"
	"time"
)

// writable is how many bytes a Write takes without waiting, readable how many a Read has, or whether it is told the end. The mutex is free.
func writable(st *Stream) int {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	return streamWindow - len(st.out)
}

func readable(st *Stream) (int, bool) {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	return len(st.in), st.finished || st.err != nil
}

func TestStreamsUnderLoss(t *testing.T) {
	for seed := int64(1); seed <= 10; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { streamsUnderLoss(t, seed) })
	}
}

type pipe struct {
	from, to   *Stream
	sent, read bytes.Buffer
	size       int
	closed     bool
}

func (p *pipe) step(r *rand.Rand) (bool, error) {
	if n := min(writable(p.from), p.size-p.sent.Len(), 1+r.Intn(20000)); n > 0 {
		b := make([]byte, n)
		r.Read(b)
		p.sent.Write(b)
		if _, err := p.from.Write(b); err != nil {
			return false, err
		}
	}
	if p.sent.Len() == p.size && !p.closed {
		p.closed = true
		_ = p.from.CloseWrite()
	}
	if p.to == nil {
		return false, nil
	}
	for {
		n, end := readable(p.to)
		if n == 0 && !end {
			return false, nil
		}
		b := make([]byte, 1+r.Intn(10000))
		m, err := p.to.Read(b)
		p.read.Write(b[:m])
		if err == io.EOF {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if r.Intn(4) == 0 {
			return false, nil // a slow reader
		}
	}
}

func streamsUnderLoss(t *testing.T, seed int64) {
	n := newNetwork(t, seed)
	r := rand.New(rand.NewSource(seed))
	src, stores := newSets(), emptyStores()
	accepted := map[string]*Stream{}
	n.connect(1, src, stores, func(st *Stream) { accepted[st.Target()] = st })
	n.ends[atAgent].s.started = true
	n.drop, n.repeat, n.jitter = 0.15*r.Float64(), 0.1, 30*time.Millisecond
	var pipes []*pipe
	for i := range 8 {
		target := fmt.Sprintf("target-%d", i)
		st, err := n.ends[i%2].s.Open(target)
		if err != nil {
			t.Fatal(err)
		}
		forth := &pipe{from: st, size: r.Intn(200_000)}
		pipes = append(pipes, forth)
	}
	back := map[string]*pipe{}
	deadline := n.now.Add(30 * time.Minute)
	for {
		done := 0
		for i, p := range pipes {
			target := fmt.Sprintf("target-%d", i)
			if p.to == nil && accepted[target] != nil {
				p.to = accepted[target]
				back[target] = &pipe{from: p.to, to: p.from, size: r.Intn(100_000)}
			}
			a, err := p.step(r)
			if err != nil {
				t.Fatal(target, err)
			}
			b := false
			if q := back[target]; q != nil {
				if b, err = q.step(r); err != nil {
					t.Fatal(target, "back", err)
				}
			}
			if a && b {
				done++
			}
		}
		if done == len(pipes) {
			break
		}
		if n.now.After(deadline) {
			t.Fatalf("%d of %d done", done, len(pipes))
		}
		if r.Intn(200) == 0 {
			n.cut = true
			n.run(time.Duration(r.Intn(10))*time.Second, nil)
			n.cut = false
			n.ends[atAgent].s.Resume()
		}
		n.run(10*time.Millisecond, nil)
	}
	for target, q := range back {
		_ = q.from.Close()
		_ = q.to.Close()
		if sha256.Sum256(q.read.Bytes()) != sha256.Sum256(q.sent.Bytes()) {
			t.Errorf("%s: other bytes came back", target)
		}
	}
	for i, p := range pipes {
		if sha256.Sum256(p.read.Bytes()) != sha256.Sum256(p.sent.Bytes()) {
			t.Errorf("%d: other bytes arrived", i)
		}
	}
	n.run(5*time.Minute, nil)
	for i, e := range n.ends {
		e.s.mu.Lock()
		if c := len(e.s.streams); c != 0 {
			t.Errorf("end %d still has %d streams", i, c)
		}
		e.s.mu.Unlock()
	}
	t.Logf("took %v", n.now.Sub(time.Unix(1700000000, 0)))
}
