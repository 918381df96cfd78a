package link

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Fronts says which Service is reached at a port of an address outside the cluster, where several want it. What the API gave comes
// first: the address of a load balancer, which also the nodes' own are where there is no pool, then a node port. An address that a
// Service asks for by itself (externalIPs) takes neither away, nor another's own (which may lie in a range that was added later, and
// is then none that nodes know by itself), and of two that ask the older has it. The nodes act on this, and the
// server tells it, so both work it out here.
type Fronts struct {
	ofNode    func(address string) bool
	given     map[front]*corev1.Service // by load balancers and to those that ask
	nodePorts map[servicePort]*corev1.Service
	own       map[string]*corev1.Service // by their addresses in the cluster
	losses    map[*corev1.Service][]Loss
}

// Loss is what a Service wants and does not get, because another has it.
type Loss struct {
	Address string // of externalIPs; "" for a node port
	Port    string // such as tcp/80; "" for all
	By      *corev1.Service
}

func (l Loss) String() string {
	by := l.By.Namespace + "/" + l.By.Name
	switch {
	case l.Address == "":
		return fmt.Sprintf("port %s of the nodes is Service %s's already, which is of type LoadBalancer", l.Port, by)
	case l.Port == "":
		return fmt.Sprintf("%s is the cluster IP of Service %s", l.Address, by)
	}
	return fmt.Sprintf("port %s of %s is Service %s's", l.Port, l.Address, by)
}

type servicePort struct {
	protocol corev1.Protocol
	number   int32
}

func (p servicePort) String() string {
	return fmt.Sprintf("%s/%d", strings.ToLower(string(p.protocol)), p.number)
}

type front struct {
	address string
	servicePort
}

// NewFronts reads all Services; ofNode says whether an address is one at which node ports are reached.
func NewFronts(services []*corev1.Service, ofNode func(address string) bool) Fronts {
	f := Fronts{ofNode: ofNode, given: map[front]*corev1.Service{}, nodePorts: map[servicePort]*corev1.Service{}, own: map[string]*corev1.Service{}, losses: map[*corev1.Service][]Loss{}}
	var asking []*corev1.Service
	for _, s := range services {
		if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP == corev1.ClusterIPNone {
			continue // nobody is reached through it
		}
		f.own[s.Spec.ClusterIP] = s
		for _, a := range s.Spec.ClusterIPs {
			f.own[a] = s
		}
		for _, sp := range s.Spec.Ports {
			if sp.NodePort != 0 {
				f.nodePorts[servicePort{protocolOf(sp), sp.NodePort}] = s
			}
		}
		if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
			for _, in := range s.Status.LoadBalancer.Ingress {
				f.give(in.IP, s)
			}
		}
		if len(s.Spec.ExternalIPs) > 0 {
			asking = append(asking, s)
		}
	}
	f.nodes()
	slices.SortFunc(asking, ByAge)
	for _, s := range asking {
		for _, a := range s.Spec.ExternalIPs {
			f.ask(s, a)
		}
	}
	return f
}

func (f Fronts) give(address string, s *corev1.Service) {
	for _, sp := range s.Spec.Ports {
		f.given[front{address, servicePort{protocolOf(sp), sp.Port}}] = s
	}
}

// nodes finds the node ports that load balancers have at the nodes' own addresses.
func (f Fronts) nodes() {
	for at, balancer := range f.given {
		if s := f.nodePorts[at.servicePort]; s != nil && s != balancer && f.ofNode(at.address) {
			if l := (Loss{Port: at.servicePort.String(), By: balancer}); !slices.Contains(f.losses[s], l) { // once, not for each node
				f.losses[s] = append(f.losses[s], l)
			}
		}
	}
	for _, list := range f.losses {
		slices.SortFunc(list, func(a, b Loss) int { return cmp.Or(strings.Compare(a.Port, b.Port), ByAge(a.By, b.By)) })
	}
}

// ask gives a Service an address that it asks for, with all of its ports or not at all: which addresses it has is said of it, not
// of its ports.
func (f Fronts) ask(s *corev1.Service, address string) {
	if by := f.own[address]; by != nil && by != s {
		f.losses[s] = append(f.losses[s], Loss{Address: address, By: by})
		return
	}
	for _, sp := range s.Spec.Ports {
		port := servicePort{protocolOf(sp), sp.Port}
		by := f.given[front{address, port}]
		if by == nil && f.ofNode(address) {
			by = f.nodePorts[port]
		}
		if by != nil && by != s {
			f.losses[s] = append(f.losses[s], Loss{Address: address, Port: port.String(), By: by})
			return
		}
	}
	f.give(address, s)
}

// Losses are what a Service does not get.
func (f Fronts) Losses(s *corev1.Service) []Loss { return f.losses[s] }

// Losers are the Services that do not get all they ask for, the oldest first.
func (f Fronts) Losers() []*corev1.Service {
	out := make([]*corev1.Service, 0, len(f.losses))
	for s := range f.losses {
		out = append(out, s)
	}
	slices.SortFunc(out, ByAge)
	return out
}

// Lost says whether another Service has an address that this one asks for.
func (f Fronts) Lost(s *corev1.Service, address string) bool {
	return slices.ContainsFunc(f.losses[s], func(l Loss) bool { return l.Address == address })
}

// ByAge orders Services by who wanted something first.
func ByAge(a, b *corev1.Service) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

func protocolOf(sp corev1.ServicePort) corev1.Protocol {
	return cmp.Or(sp.Protocol, corev1.ProtocolTCP)
}
