package announce

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"bramble.dev/mesh/internal/nstest"
)

// link is three nodes that announce one address, and a client.
type link struct {
	client *nstest.NS
	nodes  []*nstest.NS
	all    []*Announcer
	vip    netip.Addr
	plug   func(*nstest.NS, bool)
}

func newLink(t *testing.T) *link {
	client := nstest.New(t, "client")
	hosts := map[*nstest.NS]string{client: "10.99.0.9/24"}
	var nodes []*nstest.NS
	var peers []Peer
	for i := range 3 {
		n := nstest.New(t, fmt.Sprint("n", i))
		nodes = append(nodes, n)
		hosts[n] = fmt.Sprintf("10.99.0.%d/24", i+1)
		peers = append(peers, Peer{fmt.Sprint("n", i), netip.MustParseAddr(fmt.Sprintf("10.99.0.%d", i+1))})
	}
	plug := nstest.Switch(t, hosts)
	vip := netip.MustParseAddr("10.99.0.200")
	var all []*Announcer
	for i, n := range nodes {
		a := Open(Options{Enter: n.Do, Logger: slog.New(slog.DiscardHandler)})
		t.Cleanup(func() { a.Close() })
		all = append(all, a)
		c := Config{Self: fmt.Sprint("n", i), NodeIP: peers[i].IP, Cluster: "c", Addresses: []netip.Addr{vip, netip.MustParseAddr("203.0.113.1")}, Peers: peers}
		if err := a.Set(context.Background(), c); err != nil {
			t.Fatal(err)
		}
	}
	return &link{client, nodes, all, vip, plug}
}

// TestAnAddressMoves: on a real link a client finds the address at one node, and at another soon after that one has died.
func TestAnAddressMoves(t *testing.T) {
	l := newLink(t)
	client, nodes, all, vip := l.client, l.nodes, l.all, l.vip
	holder := eventually(t, 5*time.Second, func() int { return found(client, nodes, vip) }, -1)
	all[holder].Close()
	begun := time.Now()
	next := eventually(t, 10*time.Second, func() int { return found(client, nodes, vip) }, holder)
	t.Logf("the address moved from n%d to n%d in %v, as the client's table saw without asking", holder, next, time.Since(begun).Round(10*time.Millisecond))
	client.Run("ip", "neigh", "flush", "dev", "eth0")
	if got := eventually(t, 5*time.Second, func() int { return found(client, nodes, vip) }, -1); got != next {
		t.Errorf("who asks is told n%d, not n%d", got, next)
	}
	for i, a := range all {
		if err := a.Set(context.Background(), Config{}); err != nil || a.running != nil {
			t.Errorf("n%d goes on with nothing to announce (%v)", i, err)
		}
	}
}

// TestACableThatWasOut: who announced an address before its cable was out does so again, and the link is told: otherwise it would go
// on believing the node that stood in, and lose the address with that one.
func TestACableThatWasOut(t *testing.T) {
	l := newLink(t)
	find := func() int { return found(l.client, l.nodes, l.vip) }
	holder := eventually(t, 5*time.Second, find, -1)
	time.Sleep(claims[len(claims)-1] + interval) // it has said so for the last time
	l.plug(l.nodes[holder], false)
	second := eventually(t, 5*time.Second, find, holder)
	time.Sleep(claims[len(claims)-1] + interval) // and so has the other: what is claimed while both hear is defended
	l.plug(l.nodes[holder], true)
	if got := eventually(t, 3*time.Second, find, second); got != holder { // by itself a client that is in doubt asks after five
		t.Errorf("the address came to n%d, want n%d", got, holder)
	}
	time.Sleep(claims[len(claims)-1] + interval)
	if got := find(); got != holder {
		t.Errorf("the address is at n%d, want n%d", got, holder)
	}
}

// eventually is the first node that is found and is not the old one.
func eventually(t *testing.T, patience time.Duration, find func() int, old int) int {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if n := find(); n >= 0 && n != old {
			return n
		}
	}
	t.Fatalf("nobody but n%d announces the address after %v", old, patience)
	return 0
}

// found is the node whose Ethernet address the client has for the address, or -1.
func found(client *nstest.NS, nodes []*nstest.NS, a netip.Addr) int {
	if c, err := client.Dial(net.Dialer{}, "udp", netip.AddrPortFrom(a, 9).String()); err == nil {
		_, _ = c.Write([]byte("x")) // makes the kernel ask, unless it believes to know
		c.Close()
	}
	out, _ := client.Try("ip", "neigh", "show", a.String())
	for i, n := range nodes {
		link, _ := n.Try("ip", "-o", "link", "show", "eth0")
		if _, rest, ok := strings.Cut(link, "link/ether "); ok && strings.Contains(out, rest[:17]) {
			return i
		}
	}
	return -1
}
