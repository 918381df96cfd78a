package mesh

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"bramble.dev/mesh/announce"
)

// announcement is what this node can announce: the addresses of load balancers that are no node's own. Where only endpoints of
// this node may be used, it must have one.
func (c Config) announcement() announce.Config {
	out := announce.Config{Self: c.Node, NodeIP: c.NodeIP, Cluster: c.Cluster}
	nodes := map[netip.Addr]bool{c.NodeIP: true}
	for _, p := range c.Peers {
		nodes[p.IP] = true
		if p.Site == c.Site { // others are on another link, which may have the same addresses
			out.Peers = append(out.Peers, announce.Peer{Node: p.Node, IP: p.IP})
		}
	}
	if c.Unannounced {
		return out
	}
	for _, svc := range c.Services {
		if !c.balances(svc) || svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && !c.servesHere(svc) {
			continue
		}
		for _, in := range svc.Status.LoadBalancer.Ingress {
			a, err := netip.ParseAddr(in.IP)
			if err == nil && a.Is4() && !nodes[a] && (in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP) {
				out.Addresses = append(out.Addresses, a)
			}
		}
	}
	return out
}

// balances says whether a Service's addresses are the cluster's own to announce, and not those of somebody else's load balancer.
func (c Config) balances(svc *corev1.Service) bool {
	class := svc.Spec.LoadBalancerClass
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.DeletionTimestamp == nil && (class == nil || *class == c.BalancerClass)
}

// servesHere says whether an endpoint of this node is ready, or still serves while it ends.
func (c Config) servesHere(svc *corev1.Service) bool {
	return slices.ContainsFunc(c.EndpointSlices, func(s *discoveryv1.EndpointSlice) bool {
		return s.Namespace == svc.Namespace && s.Labels[discoveryv1.LabelServiceName] == svc.Name && slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool {
			ready := e.Conditions.Ready == nil || *e.Conditions.Ready || e.Conditions.Serving != nil && *e.Conditions.Serving
			return ready && e.NodeName != nil && *e.NodeName == c.Node
		})
	})
}
