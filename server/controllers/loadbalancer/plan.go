package loadbalancer

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
	"bramble.dev/server/controllers/entrance"
)

const (
	// finalizer keeps a Service until its address is free again, word for word upstream's.
	finalizer = "service.kubernetes.io/load-balancer-cleanup"
	// addressAnnotation asks for an address, as the field spec.loadBalancerIP does, which upstream advises against.
	addressAnnotation = "bramble.dev/load-balancer-ip"
)

// observed is what an address is chosen by.
type observed struct {
	service  *corev1.Service
	services []*corev1.Service // all, this one among them
	pool     Pool
	nodes    []*corev1.Node
	local    map[string]bool                     // nodes with a ready endpoint
	hostPort map[string]map[entrance.Port]string // ports that pods have on nodes, and whose they are
	ingress  string                              // the Ingress for which the nodes keep the web's ports; "": none
}

// plan is what a Service is to have.
type plan struct {
	addresses []netip.Addr
	refusal   string // why it has none, or not all
}

// ours says whether a Service is ours to give an address to.
func ours(svc *corev1.Service) bool {
	class := svc.Spec.LoadBalancerClass
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.DeletionTimestamp == nil && (class == nil || *class == link.LoadBalancerClass)
}

func foreign(svc *corev1.Service) bool {
	class := svc.Spec.LoadBalancerClass
	return class != nil && *class != link.LoadBalancerClass
}

func hasFinalizer(svc *corev1.Service) bool { return slices.Contains(svc.Finalizers, finalizer) }

// addressesOf are those that a Service's status tells.
func addressesOf(svc *corev1.Service) []netip.Addr {
	var out []netip.Addr
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(in.IP); err == nil {
			out = append(out, a)
		}
	}
	return out
}

func portsOf(svc *corev1.Service) []entrance.Port {
	var out []entrance.Port
	for _, p := range svc.Spec.Ports {
		out = append(out, entrance.Port{Protocol: cmp.Or(p.Protocol, corev1.ProtocolTCP), Number: p.Port})
	}
	return out
}

func nodePortsOf(svc *corev1.Service) []entrance.Port {
	var out []entrance.Port
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			out = append(out, entrance.Port{Protocol: cmp.Or(p.Protocol, corev1.ProtocolTCP), Number: p.NodePort})
		}
	}
	return out
}

func decide(o observed) plan {
	if len(o.pool) > 0 {
		return fromPool(o)
	}
	return fromNodes(o)
}

// fromPool gives one address, and leaves a Service the one that it has. The answer for a Service whose wish cannot be
// fulfilled is none, rather than another than it asked for.
func fromPool(o observed) plan {
	taken, asked := map[netip.Addr]string{}, map[netip.Addr]string{} // asked: for which Services ask by themselves
	for _, s := range o.services {
		if s.Namespace == o.service.Namespace && s.Name == o.service.Name {
			continue
		}
		name := s.Namespace + "/" + s.Name
		for _, a := range addressesOf(s) {
			taken[a] = name
		}
		for _, text := range s.Spec.ExternalIPs {
			if a, err := netip.ParseAddr(text); err == nil {
				asked[a] = name
			}
		}
	}
	for _, n := range o.nodes {
		if a := addressOf(n); a.IsValid() {
			taken[a] = "node " + n.Name
		}
	}
	// What the Service has stays its own, whoever asks for it since.
	var reserved []string
	for a, name := range asked {
		if taken[a] == "" && !slices.Contains(addressesOf(o.service), a) {
			taken[a] = name + " (externalIPs)"
			if o.pool.contains(a) {
				reserved = append(reserved, fmt.Sprintf("%s by %s", a, name))
			}
		}
	}
	if wish := cmp.Or(o.service.Annotations[addressAnnotation], o.service.Spec.LoadBalancerIP); wish != "" {
		a, err := netip.ParseAddr(wish)
		switch {
		case err != nil || !a.Is4():
			return plan{refusal: fmt.Sprintf("%q is not an IPv4 address", wish)}
		case !o.pool.contains(a):
			return plan{refusal: fmt.Sprintf("%s is not in the pool of addresses, %s", a, o.pool)}
		case taken[a] != "":
			return plan{refusal: fmt.Sprintf("%s is in use by %s", a, taken[a])}
		}
		return plan{addresses: []netip.Addr{a}}
	}
	for _, a := range addressesOf(o.service) {
		if _, others := taken[a]; o.pool.contains(a) && !others {
			return plan{addresses: []netip.Addr{a}}
		}
	}
	a, ok := o.pool.next(taken)
	if !ok {
		why := fmt.Sprintf("no address is free in the pool %s: delete a Service of type LoadBalancer, or give the server a larger --load-balancer-pool", o.pool)
		if slices.Sort(reserved); len(reserved) > 0 {
			why += "; kept free for externalIPs: " + strings.Join(reserved, ", ")
		}
		return plan{refusal: why}
	}
	return plan{addresses: []netip.Addr{a}}
}

// addressOf is a node's address, where it has one of IPv4.
func addressOf(n *corev1.Node) netip.Addr { return entrance.Address(n, netip.Addr.Is4) }

// fromNodes tells the addresses of all nodes that can serve.
func fromNodes(o observed) plan {
	if why := rival(o); why != "" {
		return plan{refusal: why}
	}
	var p plan
	var refusals []string
	for _, n := range o.nodes {
		if !candidate(n) {
			continue
		}
		if why := o.cannot(n); why != "" {
			refusals = append(refusals, n.Name+": "+why)
			continue
		}
		p.addresses = append(p.addresses, addressOf(n))
	}
	slices.SortFunc(p.addresses, netip.Addr.Compare)
	slices.Sort(refusals)
	p.refusal = strings.Join(refusals, "; ")
	return p
}

// candidate says whether a node may be told to the outside at all.
func candidate(n *corev1.Node) bool { return entrance.Open(n) && addressOf(n).IsValid() }

// cannot says why a node does not serve the Service, or "". A pod with the host's port wins: the scheduler put it there.
func (o observed) cannot(n *corev1.Node) string {
	if o.service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && !o.local[n.Name] {
		return "no endpoint is ready here, and externalTrafficPolicy is Local"
	}
	for _, p := range portsOf(o.service) {
		if pod := o.hostPort[n.Name][p]; pod != "" {
			return fmt.Sprintf("port %s is the host port of pod %s", p, pod)
		}
		for _, busy := range link.BusyPorts(n) {
			if busy.Protocol == p.Protocol && int32(busy.Port) == p.Number && !busy.ByService() { // which of two Services has it is for rival to say
				return fmt.Sprintf("port %s is in use by %s", p, cmp.Or(busy.By, "another program"))
			}
		}
	}
	return ""
}

// toldPorts are those at which the nodes' addresses were told for a Service. One from before ports were told has all of its own.
func toldPorts(svc *corev1.Service) []entrance.Port {
	var out []entrance.Port
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if len(in.Ports) == 0 {
			return portsOf(svc)
		}
		for _, p := range in.Ports {
			out = append(out, entrance.Port{Protocol: p.Protocol, Number: p.Port})
		}
	}
	return out
}

// rival names who has a port of the Service on the nodes' addresses already: who has been told with it keeps it, else the older. A Service
// that is told with other ports has no claim to one that it wants since.
func rival(o observed) string {
	had := toldPorts(o.service)
	for _, p := range portsOf(o.service) {
		has := slices.Contains(had, p)
		for _, s := range o.services {
			if s.Namespace == o.service.Namespace && s.Name == o.service.Name {
				continue
			}
			if !has && slices.Contains(nodePortsOf(s), p) {
				return fmt.Sprintf("port %s of the nodes is a node port of Service %s/%s: choose another port, or give the server a --load-balancer-pool", p, s.Namespace, s.Name)
			}
			if !ours(s) || !slices.Contains(portsOf(s), p) {
				continue
			}
			if told := slices.Contains(toldPorts(s), p); has && !told || has == told && link.ByAge(s, o.service) > 0 {
				continue
			}
			return fmt.Sprintf("port %s of the nodes is Service %s/%s's: choose another port, or give the server a --load-balancer-pool", p, s.Namespace, s.Name)
		}
		if web := p.Protocol == corev1.ProtocolTCP && (p.Number == 80 || p.Number == 443); web && !has && o.ingress != "" {
			return fmt.Sprintf("port %s of the nodes serves Ingresses (%s): choose another port, or give the server a --load-balancer-pool", p, o.ingress)
		}
	}
	return ""
}
