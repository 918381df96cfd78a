// Package entrance says which nodes may be told to the outside, for Services of
// type LoadBalancer and for Ingresses, at which address, and which of its ports
// are a pod's (hostPort) and so nobody else's.
//
// Invariant: a node that is not ready, that is going, or that has the label
// node.kubernetes.io/exclude-from-external-load-balancers is not told.
//
//	if entrance.Open(node) {
//		address := entrance.Address(node, netip.Addr.Is4)
//	}
//
// Tests: server/controllers/loadbalancer/plan_test.go, server/controllers/ingress/plan_test.go
package entrance

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/nodes"
)

// Open says whether a node may be told to the outside at all.
func Open(n *corev1.Node) bool {
	_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]
	return nodes.IsReady(n) && !excluded && n.DeletionTimestamp == nil
}

// Address is the first of a node's own addresses that is wanted; the zero Addr if there is none.
func Address(n *corev1.Node, wanted func(netip.Addr) bool) netip.Addr {
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			if ip, err := netip.ParseAddr(a.Address); err == nil && wanted(ip) {
				return ip
			}
		}
	}
	return netip.Addr{}
}
