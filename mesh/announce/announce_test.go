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

// TestAnAddressMoves: on a real link a client finds the address at one node, and at another soon after that one has died.
func TestAnAddressMoves(t *testing.T) {
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
	nstest.Switch(t, hosts)
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
