package services

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Config is all that the table is made of. The objects are not changed, and must not be changed by
// the caller either: an object with another content is another pointer.
type Config struct {
	Node, Zone string         // of this node
	Bridge     string         // the link that this node's pods hang on
	Tunnel     string         // the link to other nodes' pods
	VNI        uint32         // of the tunnel
	TunnelPort uint16         // of UDP
	Direct     bool           // other nodes' pods are reached by other links, too
	Peers      []netip.Addr   // the hosts at the tunnel's other ends
	Gateway    netip.Addr     // the bridge's address
	PodCIDR    netip.Prefix   // this node's pods
	Cluster    netip.Prefix   // all nodes' pods
	ServiceIPs netip.Prefix   // of ClusterIPs
	DNS        netip.Addr     // the address that this node answers DNS queries at
	Resolver   netip.AddrPort // what answers them
	API        netip.AddrPort // where default/kubernetes goes instead of to its endpoints
	Services   []*corev1.Service
	Endpoints  []*discoveryv1.EndpointSlice
	Pods       []Pod
}

// Pod is a pod of this node that is attached to the bridge.
type Pod struct {
	IP    netip.Addr
	Ports []HostPort
}

// HostPort is a port of the host that leads to a pod.
type HostPort struct {
	HostIP   netip.Addr // of the host; none or unspecified: any
	HostPort uint16
	Port     uint16
	Protocol corev1.Protocol
}
