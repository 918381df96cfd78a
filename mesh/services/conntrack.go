package services

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/mesh/nft"
)

// Flow is a tracked exchange of datagrams.
type Flow struct {
	Proto uint8
	To    netip.AddrPort // whom the client wrote to
	From  netip.AddrPort // who answers
}

// Conntrack forgets tracked flows. UDP has no connections: a client that keeps writing from one port
// stays with an endpoint that is gone until the kernel forgets the pair.
type Conntrack interface {
	Forget(match func(Flow) bool) error
}

// flows says which UDP flows are stale: those to a front that changed, answered by what is no
// endpoint of it now. A front without an address is a port of any address.
type flows struct {
	fronts map[netip.AddrPort]map[netip.AddrPort]bool
	dead   map[netip.Addr]bool // pods that are gone
}

func newFlows() *flows {
	return &flows{fronts: map[netip.AddrPort]map[netip.AddrPort]bool{}, dead: map[netip.Addr]bool{}}
}

func (f *flows) empty() bool { return len(f.fronts)+len(f.dead) == 0 }

func (f *flows) stale(x Flow) bool {
	if x.Proto != nft.UDP {
		return false
	}
	if f.dead[x.From.Addr()] {
		return true
	}
	if eps, ok := f.fronts[x.To]; ok {
		return !eps[x.From]
	}
	if eps, ok := f.fronts[netip.AddrPortFrom(netip.Addr{}, x.To.Port())]; ok {
		return !eps[x.From]
	}
	return false
}

// compare notes the fronts that lost an endpoint, and those that got their first: flows that began
// while there was none lead nowhere.
func (f *flows) compare(before, now map[netip.AddrPort][]netip.AddrPort) {
	for front, eps := range now {
		if len(before[front]) == 0 && len(eps) > 0 {
			f.note(front, eps)
		}
	}
	for front, old := range before {
		if slices.ContainsFunc(old, func(e netip.AddrPort) bool { return !slices.Contains(now[front], e) }) {
			f.note(front, now[front])
		}
	}
}

func (f *flows) note(front netip.AddrPort, eps []netip.AddrPort) {
	set := map[netip.AddrPort]bool{}
	for _, e := range eps {
		set[e] = true
	}
	f.fronts[front] = set
}

// pods notes pods with UDP host ports that went, and UDP host ports that came.
func (f *flows) pods(before, now []Pod) {
	old, have := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for _, p := range before {
		old[p.IP] = true
	}
	for _, p := range now {
		have[p.IP] = true
		for _, hp := range p.Ports {
			if hp.Protocol == corev1.ProtocolUDP && !old[p.IP] {
				f.note(netip.AddrPortFrom(netip.Addr{}, hp.HostPort), []netip.AddrPort{netip.AddrPortFrom(p.IP, hp.Port)})
			}
		}
	}
	for _, p := range before {
		for _, hp := range p.Ports {
			if hp.Protocol == corev1.ProtocolUDP && !have[p.IP] {
				f.dead[p.IP] = true
			}
		}
	}
}
