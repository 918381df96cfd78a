package vxlan

import (
	"maps"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func mac(s string) net.HardwareAddr {
	m, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

func peer(node, ip, cidr, m string) Peer {
	p := Peer{Node: node, MAC: mac(m)}
	p.IP, _ = netip.ParseAddr(ip)
	p.PodCIDR, _ = netip.ParsePrefix(cidr)
	return p
}

func config(peers ...Peer) Config {
	return Config{Node: "n1", NodeIP: netip.MustParseAddr("192.168.1.1"), PodCIDR: netip.MustParsePrefix("10.42.1.0/24"), Gateway: netip.MustParseAddr("10.42.1.1"), Peers: peers}
}

// elsewhere puts the last peer at another site.
func elsewhere(c Config, open bool) Config {
	c.Site, c.Open = "home", open
	for i := range c.Peers {
		c.Peers[i].Site = "home"
	}
	c.Peers[len(c.Peers)-1].Site = "farm"
	return c
}

func TestPlan(t *testing.T) {
	n2, n3 := peer("n2", "192.168.1.2", "10.42.2.0/24", "02:00:00:00:00:02"), peer("n3", "192.168.1.3", "10.42.3.0/24", "02:00:00:00:00:03")
	moved := n2
	moved.IP = netip.MustParseAddr("192.168.1.22")
	reborn := n2
	reborn.MAC = mac("02:00:00:00:00:22")
	noMAC := n2
	noMAC.MAC = nil
	for _, tt := range []struct {
		name          string
		before, after Config
		want          string
	}{
		{"nothing", config(), config(), ""},
		{"a peer comes", config(), config(n2), `
			set forwarding of 02:00:00:00:00:02 to 192.168.1.2
			set neighbour 10.42.2.1 at 02:00:00:00:00:02
			set route to 10.42.2.0/24 via 10.42.2.1 from 10.42.1.1`},
		{"a peer stays", config(n2), config(n2), ""},
		{"a peer's address changes", config(n2, n3), config(moved, n3), `
			set forwarding of 02:00:00:00:00:02 to 192.168.1.22`},
		{"a peer's device is another", config(n2), config(reborn), `
			set forwarding of 02:00:00:00:00:22 to 192.168.1.2
			set neighbour 10.42.2.1 at 02:00:00:00:00:22
			remove forwarding of 02:00:00:00:00:02 to 192.168.1.2`},
		{"a peer goes", config(n2, n3), config(n3), `
			remove route to 10.42.2.0/24 via 10.42.2.1 from 10.42.1.1
			remove neighbour 10.42.2.1 at 02:00:00:00:00:02
			remove forwarding of 02:00:00:00:00:02 to 192.168.1.2`},
		{"another site", config(), elsewhere(config(n2, n3), false), `
			set forwarding of 02:00:00:00:00:02 to 192.168.1.2
			set neighbour 10.42.2.1 at 02:00:00:00:00:02
			set route to 10.42.2.0/24 via 10.42.2.1 from 10.42.1.1`},
		{"another site, and it is allowed", elsewhere(config(n2, n3), false), elsewhere(config(n2, n3), true), `
			set forwarding of 02:00:00:00:00:03 to 192.168.1.3
			set neighbour 10.42.3.1 at 02:00:00:00:00:03
			set route to 10.42.3.0/24 via 10.42.3.1 from 10.42.1.1`},
		{"not ready, this node, this host", config(), config(noMAC, peer("n4", "", "10.42.4.0/24", "02:00:00:00:00:04"), peer("n5", "192.168.1.5", "", "02:00:00:00:00:05"),
			peer("n1", "192.168.1.9", "10.42.1.0/24", "02:00:00:00:00:01"), peer("n6", "192.168.1.1", "10.42.6.0/24", "02:00:00:00:00:06"), peer("n7", "2001:db8::7", "10.42.7.0/24", "02:00:00:00:00:07")), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, s := range Plan(Wanted(tt.before), Wanted(tt.after)) {
				got = append(got, s.String())
			}
			var want []string
			for _, l := range strings.Split(strings.TrimSpace(tt.want), "\n") {
				if l = strings.TrimSpace(l); l != "" {
					want = append(want, l)
				}
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

// TestPlanReachesWhatIsWanted from any state, whatever is in the kernel.
func TestPlanReachesWhatIsWanted(t *testing.T) {
	draw := func(t *rapid.T, label string) State {
		var peers []Peer
		for _, n := range rapid.SliceOfNDistinct(rapid.IntRange(2, 8), 0, 6, rapid.ID[int]).Draw(t, label) {
			p := Peer{Node: string(rune('a' + n)), IP: netip.AddrFrom4([4]byte{192, 168, byte(rapid.IntRange(1, 3).Draw(t, "net")), byte(n)}),
				PodCIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, byte(n), 0}), 24), MAC: net.HardwareAddr{2, 0, 0, 0, byte(rapid.IntRange(0, 1).Draw(t, "mac")), byte(n)}}
			peers = append(peers, p)
		}
		return Wanted(config(peers...))
	}
	rapid.Check(t, func(t *rapid.T) {
		have, want := draw(t, "have"), draw(t, "want")
		for _, s := range Plan(have, want) {
			have.apply(s)
		}
		if !maps.Equal(have.Routes, want.Routes) || !maps.Equal(have.Neighbours, want.Neighbours) || !maps.Equal(have.Forwarding, want.Forwarding) {
			t.Fatalf("got %v, want %v", have, want)
		}
		if again := Plan(have, want); len(again) > 0 {
			t.Fatalf("a second plan: %v", again)
		}
	})
}

// apply does a step to a state in memory.
func (s State) apply(st Step) {
	switch {
	case st.Prefix.IsValid() && st.Remove:
		delete(s.Routes, st.Prefix)
	case st.Prefix.IsValid():
		s.Routes[st.Prefix] = st.Route
	case st.Gateway.IsValid() && st.Remove:
		delete(s.Neighbours, st.Gateway)
	case st.Gateway.IsValid():
		s.Neighbours[st.Gateway] = st.MAC
	case st.Remove:
		delete(s.Forwarding, st.MAC)
	default:
		s.Forwarding[st.MAC] = st.Host
	}
}
