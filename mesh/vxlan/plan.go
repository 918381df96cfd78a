package vxlan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"bramble.dev/mesh/ipam"
)

// State is what the device's part of the kernel holds, or should: the same type for both, so that the
// plan is a comparison.
type State struct {
	Routes     map[netip.Prefix]Route
	Neighbours map[netip.Addr]string // gateway of a peer -> MAC of its device
	Forwarding map[string]netip.Addr // MAC of a peer's device -> the host to send to
}

// Route leads to a peer's pods.
type Route struct {
	Via    netip.Addr // the peer's gateway
	Source netip.Addr // what this host itself sends with
}

// Wanted is the state that a configuration asks for. Peers without an address, subnet or device
// address are left out, and so are those on this host (another agent with the same address): their
// bridge is right here. Those of another site are left out as well, unless the operator lets pods'
// packets travel between sites as they are, and those that a direct route leads to (see direct.go).
func Wanted(c Config) State {
	s := State{Routes: map[netip.Prefix]Route{}, Neighbours: map[netip.Addr]string{}, Forwarding: map[string]netip.Addr{}}
	for _, p := range c.Peers {
		if !remote(c, p) || near(c, p) {
			continue
		}
		gw := ipam.Gateway(p.PodCIDR)
		s.Routes[p.PodCIDR.Masked()] = Route{Via: gw, Source: c.Gateway}
		s.Neighbours[gw] = p.MAC.String()
		s.Forwarding[p.MAC.String()] = p.IP
	}
	return s
}

// Hosts lists the hosts at the other ends, in order.
func Hosts(c Config) []netip.Addr {
	var out []netip.Addr
	for _, p := range c.Peers {
		if remote(c, p) {
			out = append(out, p.IP)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

func remote(c Config, p Peer) bool {
	return p.Node != c.Node && p.IP.Is4() && p.IP != c.NodeIP && p.PodCIDR.IsValid() && p.PodCIDR.Addr().Is4() &&
		p.PodCIDR.Masked() != c.PodCIDR.Masked() && len(p.MAC) == 6 && (c.Open || p.Site == c.Site)
}

// Step is one entry to set or to remove.
type Step struct {
	Remove  bool
	Prefix  netip.Prefix // of a route, when valid
	Route   Route
	Gateway netip.Addr // of a neighbour entry, when valid
	MAC     string     // of a neighbour or forwarding entry
	Host    netip.Addr // of a forwarding entry
}

// Plan lists the steps from one state to another: what packets to a new peer need comes from below
// upwards (forwarding, neighbour, route), what a lost peer had goes the other way.
func Plan(observed, wanted State) []Step {
	var out []Step
	for _, mac := range sorted(wanted.Forwarding, strings.Compare) {
		if observed.Forwarding[mac] != wanted.Forwarding[mac] {
			out = append(out, Step{MAC: mac, Host: wanted.Forwarding[mac]})
		}
	}
	for _, gw := range sorted(wanted.Neighbours, netip.Addr.Compare) {
		if observed.Neighbours[gw] != wanted.Neighbours[gw] {
			out = append(out, Step{Gateway: gw, MAC: wanted.Neighbours[gw]})
		}
	}
	for _, p := range sorted(wanted.Routes, comparePrefix) {
		if observed.Routes[p] != wanted.Routes[p] {
			out = append(out, Step{Prefix: p, Route: wanted.Routes[p]})
		}
	}
	for _, p := range sorted(observed.Routes, comparePrefix) {
		if _, ok := wanted.Routes[p]; !ok {
			out = append(out, Step{Remove: true, Prefix: p, Route: observed.Routes[p]})
		}
	}
	for _, gw := range sorted(observed.Neighbours, netip.Addr.Compare) {
		if _, ok := wanted.Neighbours[gw]; !ok {
			out = append(out, Step{Remove: true, Gateway: gw, MAC: observed.Neighbours[gw]})
		}
	}
	for _, mac := range sorted(observed.Forwarding, strings.Compare) {
		if _, ok := wanted.Forwarding[mac]; !ok {
			out = append(out, Step{Remove: true, MAC: mac, Host: observed.Forwarding[mac]})
		}
	}
	return out
}

func (st Step) String() string {
	verb := "set"
	if st.Remove {
		verb = "remove"
	}
	switch {
	case st.Prefix.IsValid():
		return fmt.Sprintf("%s route to %s via %s from %s", verb, st.Prefix, st.Route.Via, st.Route.Source)
	case st.Gateway.IsValid():
		return fmt.Sprintf("%s neighbour %s at %s", verb, st.Gateway, st.MAC)
	}
	return fmt.Sprintf("%s forwarding of %s to %s", verb, st.MAC, st.Host)
}

func sorted[K comparable, V any](m map[K]V, compare func(a, b K) int) []K {
	out := make([]K, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.SortFunc(out, compare)
	return out
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
