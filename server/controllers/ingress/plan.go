package ingress

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"bramble.dev/link"
	"bramble.dev/server/controllers/entrance"
)

// decide is where an Ingress, with TLS or without, is served: at the nodes that can, in the order of their addresses. Ports are
// told of those that do not serve at the web's own.
func decide(nodes []*corev1.Node, hostPorts map[string][]entrance.Port, secure bool) []networkingv1.IngressLoadBalancerIngress {
	at := map[netip.Addr]*corev1.Node{}
	var addresses []netip.Addr
	for _, n := range nodes {
		a := entrance.Address(n, netip.Addr.IsValid)
		if at[a] == nil && a.IsValid() && serves(n, hostPorts[n.Name], secure) {
			at[a], addresses = n, append(addresses, a)
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	var out []networkingv1.IngressLoadBalancerIngress
	for _, a := range addresses {
		told := networkingv1.IngressLoadBalancerIngress{IP: a.String()}
		if http, https := link.IngressPorts(at[a]); http != 80 || https != 443 {
			for _, p := range ports(at[a], secure) {
				told.Ports = append(told.Ports, networkingv1.IngressPortStatus{Port: p.Number, Protocol: p.Protocol})
			}
		}
		out = append(out, told)
	}
	return out
}

// ports are those of a node at which an Ingress is served.
func ports(n *corev1.Node, secure bool) (out []entrance.Port) {
	http, https := link.IngressPorts(n)
	if http != 0 {
		out = append(out, entrance.Port{Protocol: corev1.ProtocolTCP, Number: int32(http)})
	}
	if https != 0 && (secure || http == 0) {
		out = append(out, entrance.Port{Protocol: corev1.ProtocolTCP, Number: int32(https)})
	}
	return out
}

// serves says whether a node can: it is ready, it is not kept out, and neither a program of its board nor a pod has the ports.
func serves(n *corev1.Node, taken []entrance.Port, secure bool) bool {
	for _, busy := range link.BusyPorts(n) {
		taken = append(taken, entrance.Port{Protocol: busy.Protocol, Number: int32(busy.Port)})
	}
	wanted := ports(n, secure)
	return entrance.Open(n) && len(wanted) > 0 && !slices.ContainsFunc(wanted, func(p entrance.Port) bool { return slices.Contains(taken, p) })
}

// sameForIngresses says whether a change of a node makes no difference to where Ingresses are served.
func sameForIngresses(a, b *corev1.Node) bool {
	return entrance.Open(a) == entrance.Open(b) && a.Labels[link.IngressLabel] == b.Labels[link.IngressLabel] &&
		entrance.Address(a, netip.Addr.IsValid) == entrance.Address(b, netip.Addr.IsValid) && slices.Equal(link.BusyPorts(a), link.BusyPorts(b))
}
