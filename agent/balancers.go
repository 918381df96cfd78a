package agent

import (
	"net/netip"
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
	wanted map[hostports.Port]bool // by Services that are told the nodes' own addresses
	busy   []link.PortInUse
	lacks  []link.PortInUse // that Ingresses want
	// without are the Services that were told this node's address and cannot be served at it, as they are handed to the
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
	var busy []link.PortInUse
	for _, u := range found {
		if u.Program == ingress.Name {
			continue // it is ours: who of a Service and the Ingresses has a port, the server decides
		}
		busy = append(busy, link.PortInUse{Protocol: u.Protocol, Port: u.Number, By: u.Program})
	}
	changed = !slices.Equal(busy, p.busy)
	p.busy = busy
	return changed, nil
}

// inUse are the ports that this board's programs have and Services want.
func (p *ports) inUse() []link.PortInUse {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Concat(p.busy, p.lacks)
}

// serve gives the Services as this node can serve them: one that wants a port which a program has does not get it here. nodes
// are the addresses of all nodes. The server, which is told, does not name the node for that Service any more.
func (p *ports) serve(services []*corev1.Service, self netip.Addr, nodes map[netip.Addr]bool) (out []*corev1.Service, changed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = map[hostports.Port]bool{}
	for _, s := range services {
		if onNodes(s, nodes) {
			for _, sp := range s.Spec.Ports {
				p.wanted[portOf(sp)] = true
			}
		}
	}
	changed, err = p.lookLocked()
	without := map[*corev1.Service]*corev1.Service{}
	out = services
	for i, s := range services {
		if !onNodes(s, nodes) || !p.refuses(s) {
			continue
		}
		if without[s] = p.without[s]; without[s] == nil {
			without[s] = leaveOut(s, self)
		}
		if &out[0] == &services[0] {
			out = slices.Clone(services)
		}
		out[i] = without[s]
	}
	p.without = without
	return out, changed, err
}

func (p *ports) refuses(s *corev1.Service) bool {
	return slices.ContainsFunc(s.Spec.Ports, func(sp corev1.ServicePort) bool {
		want := portOf(sp)
		return slices.ContainsFunc(p.busy, func(b link.PortInUse) bool { return b.Protocol == want.Protocol && b.Port == want.Number })
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

func leaveOut(s *corev1.Service, self netip.Addr) *corev1.Service {
	out := *s
	out.Status.LoadBalancer.Ingress = slices.DeleteFunc(slices.Clone(s.Status.LoadBalancer.Ingress), func(in corev1.LoadBalancerIngress) bool {
		return in.IP == self.String()
	})
	return &out
}
