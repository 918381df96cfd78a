package agent

import (
	"net/netip"
	"reflect"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/hostports"
	"bramble.dev/link"
	"bramble.dev/mesh/ingress"
)

// ports keeps what Services want of this board's own address from what its programs have there.
type ports struct {
	proc string

	mu     sync.Mutex
	wanted map[hostports.Port]bool // by Services that are told the nodes' own addresses, or ask for this one's
	busy   []link.PortInUse
	web    []link.PortInUse // of the wanted ones, those that the ingress process has
	lacks  []link.PortInUse // that Ingresses want
	// without are the Services that were told an address, or ask for one, at which they cannot be served, as they are handed to the
	// mesh: an object with another content is another pointer, and one with the same is the same.
	without map[*corev1.Service]*corev1.Service
}

// look finds out which of the wanted ports are in use; changed says whether that is news.
func (p *ports) look() (changed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lookLocked()
}

func (p *ports) lookLocked() (changed bool, err error) {
	found, err := hostports.Find(p.proc, p.wanted)
	if err != nil {
		return false, err
	}
	var busy, web []link.PortInUse
	for _, u := range found {
		to := &busy
		if u.Program == ingress.Name {
			to = &web // it is ours: who of a load balancer and the Ingresses has a port, the server decides
		}
		*to = append(*to, link.PortInUse{Protocol: u.Protocol, Port: u.Number, By: u.Program})
	}
	changed = !slices.Equal(busy, p.busy) || !slices.Equal(web, p.web)
	p.busy, p.web = busy, web
	return changed, nil
}

// inUse are the ports that this board's programs have and Services want.
func (p *ports) inUse() []link.PortInUse {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Concat(p.busy, p.lacks)
}

// addresses are this board's and those around it, of which Services may ask for some.
type addresses struct {
	self   netip.Addr
	own    map[string]bool     // all addresses of this board: it may be on several links
	nodes  map[netip.Addr]bool // of all nodes
	inside []netip.Prefix      // of pods and of Services
}

// serve gives the Services as this node can serve them: one that wants a port which a program has does not get it here. The
// server, which is told, does not name the node for that Service any more.
func (p *ports) serve(services []*corev1.Service, at addresses) (out []*corev1.Service, changed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = map[hostports.Port]bool{}
	for _, s := range services {
		if at.wants(s) {
			for _, sp := range s.Spec.Ports {
				p.wanted[portOf(sp)] = true
			}
		}
	}
	changed, err = p.lookLocked()
	without := map[*corev1.Service]*corev1.Service{}
	out = services
	fronts := link.NewFronts(services, at.mine)
	for i, s := range services {
		foreign := func(ip string) bool {
			return at.foreign(ip) || at.mine(ip) && wantsOneOf(s, p.web) || fronts.Lost(s, ip)
		}
		refused := at.wants(s) && wantsOneOf(s, p.busy)
		if !refused && !slices.ContainsFunc(s.Spec.ExternalIPs, foreign) {
			continue
		}
		without[s] = at.leaveOut(s, refused, foreign)
		if before := p.without[s]; before != nil && reflect.DeepEqual(before, without[s]) {
			without[s] = before
		}
		if &out[0] == &services[0] {
			out = slices.Clone(services)
		}
		out[i] = without[s]
	}
	p.without = without
	return out, changed, err
}

// wantsOneOf says whether a Service has a port that is in use.
func wantsOneOf(s *corev1.Service, used []link.PortInUse) bool {
	return slices.ContainsFunc(s.Spec.Ports, func(sp corev1.ServicePort) bool {
		want := portOf(sp)
		return slices.ContainsFunc(used, func(b link.PortInUse) bool { return b.Protocol == want.Protocol && b.Port == want.Number })
	})
}

func portOf(sp corev1.ServicePort) hostports.Port {
	if sp.Protocol == "" {
		sp.Protocol = corev1.ProtocolTCP
	}
	return hostports.Port{Protocol: sp.Protocol, Number: uint16(sp.Port)}
}

// onNodes says whether a Service is, or may become, one that is served at the nodes' own addresses.
func onNodes(s *corev1.Service, nodes map[netip.Addr]bool) bool {
	class := s.Spec.LoadBalancerClass
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer || class != nil && *class != link.LoadBalancerClass {
		return false
	}
	return !slices.ContainsFunc(s.Status.LoadBalancer.Ingress, func(in corev1.LoadBalancerIngress) bool {
		a, err := netip.ParseAddr(in.IP)
		return err != nil || !nodes[a]
	})
}

// wants says whether a Service may be served at this board's own address.
func (at addresses) wants(s *corev1.Service) bool {
	return onNodes(s, at.nodes) || slices.ContainsFunc(s.Spec.ExternalIPs, at.mine)
}

// mine says whether an address is this board's.
func (at addresses) mine(ip string) bool { return ip == at.self.String() || at.own[ip] }

// foreign says whether an address that a Service asks for by itself (externalIPs) is not for this board to give it. Those of pods
// and Services are somebody's. Another board has the say over its own: packets go there, and meet its programs if they have the
// port; else whoever may make a Service in some namespace could take the API's place.
func (at addresses) foreign(ip string) bool {
	a, err := netip.ParseAddr(ip)
	return err == nil && (a != at.self && at.nodes[a] || slices.ContainsFunc(at.inside, func(p netip.Prefix) bool { return p.Contains(a) }))
}

func (at addresses) leaveOut(s *corev1.Service, refused bool, foreign func(ip string) bool) *corev1.Service {
	out := *s
	out.Spec.ExternalIPs = slices.DeleteFunc(slices.Clone(s.Spec.ExternalIPs), func(ip string) bool { return foreign(ip) || refused && at.mine(ip) })
	out.Status.LoadBalancer.Ingress = slices.DeleteFunc(slices.Clone(s.Status.LoadBalancer.Ingress), func(in corev1.LoadBalancerIngress) bool {
		return refused && in.IP == at.self.String()
	})
	return &out
}
