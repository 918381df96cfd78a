package announce

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"time"
)

const (
	// interval is how often a node tells that it is there.
	interval = 500 * time.Millisecond
	// missed is how long a node may be silent: three of its packets may be lost, as they will be on Wi-Fi.
	missed = 3*interval + interval/4
)

// peer is what was heard of another node.
type peer struct {
	at     time.Time
	serves map[netip.Addr]bool
}

// election decides who announces what. It has no clock and no network.
type election struct {
	self   string
	began  time.Time // since when others are listened to
	serves map[netip.Addr]bool
	known  map[string]bool // the nodes that there are
	heard  map[string]peer
}

func newElection(now time.Time) *election { return &election{began: now, heard: map[string]peer{}} }

// hear takes in what another node can serve; news says whether that may change who announces what.
func (e *election) hear(node string, serves map[netip.Addr]bool, now time.Time) (news bool) {
	if !e.known[node] || node == e.self {
		return false
	}
	before, ok := e.heard[node]
	e.heard[node] = peer{now, serves}
	if !ok || now.Sub(before.at) > missed || len(before.serves) != len(serves) {
		return true
	}
	for a := range serves {
		if !before.serves[a] {
			return true
		}
	}
	return false
}

// away says whether a node was not heard until now. When it comes back, the link believes whichever of both announced last, and on
// the other side of a cable that was out that was not who announces from now on.
func (e *election) away(node string, now time.Time) bool {
	p, ok := e.heard[node]
	return !ok || now.Sub(p.at) > missed
}

// mine are the addresses that this node announces now. Of a node that has not been heard since the beginning nothing is known
// yet: it may serve everything.
func (e *election) mine(now time.Time) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	early := now.Sub(e.began) <= missed
	for a := range e.serves {
		own, best := rank(a, e.self), true
		for node := range e.known {
			p, ok := e.heard[node]
			rival := ok && now.Sub(p.at) <= missed && p.serves[a] || !ok && early
			if node != e.self && rival && higher(rank(a, node), node, own, e.self) {
				best = false
				break
			}
		}
		if best {
			out[a] = true
		}
	}
	return out
}

// rank orders the nodes for an address, another way for each (rendezvous hashing): when one goes only its own addresses move.
func rank(a netip.Addr, node string) uint64 {
	sum := sha256.Sum256([]byte(a.String() + " " + node))
	return binary.BigEndian.Uint64(sum[:])
}

func higher(a uint64, nodeA string, b uint64, nodeB string) bool {
	return a > b || a == b && nodeA > nodeB
}
