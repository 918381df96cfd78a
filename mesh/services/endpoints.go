package services

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"bramble.dev/mesh/nft"
)

// endpoints are what a Service's port may be sent to.
type endpoints struct {
	all   []netip.AddrPort // for traffic policy Cluster
	local []netip.AddrPort // on this node, for traffic policy Local
}

// protocols that a Service may name.
var protocols = map[corev1.Protocol]uint8{"": nft.TCP, corev1.ProtocolTCP: nft.TCP, corev1.ProtocolUDP: nft.UDP, corev1.ProtocolSCTP: nft.SCTP}

// place is where a node stands, for what prefers near endpoints.
type place struct{ node, zone string }

// candidate is one address of a slice with what decides about its use.
type candidate struct {
	to                    netip.AddrPort
	ready, serving, local bool
	hints                 *discoveryv1.EndpointHints
}

// choose picks the endpoints of a port by the rules that KEP-1669 and KEP-4444 lay down: ready ones;
// when there is none, those that are terminating but still serve, so that the last pod of a rollout is
// not cut off; and among the ready ones the near ones, when every one of them says whom it is for.
func choose(port corev1.ServicePort, eps []*discoveryv1.EndpointSlice, here place) endpoints {
	cands := candidates(port, eps, here)
	all := usable(cands)
	var mine []candidate
	for _, c := range cands {
		if c.local {
			mine = append(mine, c)
		}
	}
	return endpoints{all: addresses(near(all, here)), local: addresses(usable(mine))}
}

func candidates(port corev1.ServicePort, eps []*discoveryv1.EndpointSlice, here place) []candidate {
	var out []candidate
	for _, s := range eps {
		if _, headless := s.Labels[labelHeadless]; headless || s.AddressType != discoveryv1.AddressTypeIPv4 {
			continue // whoever wrote the label onto it wants no proxy for what it lists
		}
		n, ok := portOf(port, s.Ports)
		if !ok {
			continue
		}
		for _, e := range s.Endpoints {
			if len(e.Addresses) == 0 {
				continue
			}
			// All addresses of one endpoint are the same thing; consumers take the first.
			a, err := netip.ParseAddr(e.Addresses[0])
			if err != nil || !a.Is4() {
				continue
			}
			ready := e.Conditions.Ready == nil || *e.Conditions.Ready
			terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
			serving := ready
			if e.Conditions.Serving != nil {
				serving = *e.Conditions.Serving
			}
			c := candidate{to: netip.AddrPortFrom(a, n), ready: ready, serving: serving && terminating, hints: e.Hints}
			c.local = here.node != "" && e.NodeName != nil && *e.NodeName == here.node
			out = append(out, c)
		}
	}
	return out
}

// portOf finds the number behind a Service's port in a slice: by name and protocol.
func portOf(p corev1.ServicePort, ports []discoveryv1.EndpointPort) (uint16, bool) {
	for _, ep := range ports {
		name, proto := "", corev1.ProtocolTCP
		if ep.Name != nil {
			name = *ep.Name
		}
		if ep.Protocol != nil {
			proto = *ep.Protocol
		}
		if name != p.Name || protocols[proto] != protocols[p.Protocol] {
			continue
		}
		if ep.Port == nil || *ep.Port <= 0 || *ep.Port > 65535 {
			return 0, false
		}
		return uint16(*ep.Port), true
	}
	return 0, false
}

func usable(cands []candidate) []candidate {
	var ready, serving []candidate
	for _, c := range cands {
		if c.ready {
			ready = append(ready, c)
		} else if c.serving {
			serving = append(serving, c)
		}
	}
	if len(ready) > 0 {
		return ready
	}
	return serving
}

// near keeps the endpoints that are meant for this node, else for its zone. A hint that is missing
// anywhere, or that leaves nobody, means that all are used.
func near(cands []candidate, here place) []candidate {
	pick := func(mine func(*discoveryv1.EndpointHints) (given, match bool)) []candidate {
		var out []candidate
		for _, c := range cands {
			if c.hints == nil {
				return nil
			}
			given, match := mine(c.hints)
			if !given {
				return nil
			}
			if match {
				out = append(out, c)
			}
		}
		return out
	}
	if here.node != "" {
		if out := pick(func(h *discoveryv1.EndpointHints) (bool, bool) {
			return len(h.ForNodes) > 0, slices.ContainsFunc(h.ForNodes, func(n discoveryv1.ForNode) bool { return n.Name == here.node })
		}); len(out) > 0 {
			return out
		}
	}
	if here.zone != "" {
		if out := pick(func(h *discoveryv1.EndpointHints) (bool, bool) {
			return len(h.ForZones) > 0, slices.ContainsFunc(h.ForZones, func(z discoveryv1.ForZone) bool { return z.Name == here.zone })
		}); len(out) > 0 {
			return out
		}
	}
	return cands
}

// addresses are the distinct addresses in order.
func addresses(cands []candidate) []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(cands))
	for _, c := range cands {
		out = append(out, c.to)
	}
	slices.SortFunc(out, compareAddrPort)
	return slices.Compact(out)
}

func compareAddrPort(a, b netip.AddrPort) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Port(), b.Port()))
}

// slots puts the wanted endpoints into slots so that those that stay keep theirs: one endpoint that
// comes or goes then changes one or two elements of the maps, however many others there are.
func slots(before, want []netip.AddrPort) []netip.AddrPort {
	todo := map[netip.AddrPort]bool{}
	for _, w := range want {
		todo[w] = true
	}
	out := make([]netip.AddrPort, len(want))
	var free []int
	for i := range out {
		if i < len(before) && todo[before[i]] {
			out[i] = before[i]
			delete(todo, before[i])
		} else {
			free = append(free, i)
		}
	}
	i := 0
	for _, w := range want { // in order, so that the outcome does not hang on chance
		if todo[w] {
			out[free[i]] = w
			i++
		}
	}
	return out
}
