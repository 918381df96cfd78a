package server

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
	"bramble.dev/server/auth"
	"bramble.dev/server/cache"
	"bramble.dev/server/dispatch"
)

// newDispatcher is the server's end of the link to all nodes. The cluster's keys say who may join; what agents ask of the API
// goes to the listener at this address.
func newDispatcher(in dispatch.Config, pki *auth.PKI, api net.Addr) (*dispatch.Dispatcher, error) {
	key, err := dispatch.LinkKey(pki)
	if err != nil {
		return nil, err
	}
	in.Identity, in.LinkKey = pki, key
	in.CheckToken = func(ctx context.Context, token string) error {
		return auth.CheckJoinToken(ctx, in.Client, token, pki.CAHash())
	}
	in.DialAPI = func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", api.String())
	}
	return dispatch.New(in)
}

// cluster is what every node is told of the cluster, and where to find it.
func (c *Config) cluster(caHash, incarnation string, api netip.AddrPort, broker string) (link.ClusterConfig, error) {
	dns, err := dnsAddress(c.ServiceCIDR)
	if err != nil {
		return link.ClusterConfig{}, fmt.Errorf("--service-cidr %s: %w", c.ServiceCIDR, err)
	}
	return link.ClusterConfig{
		ID: link.ClusterID(caHash), Incarnation: incarnation, Domain: c.Domain, Version: c.Version,
		PodCIDR: c.PodCIDR.String(), ServiceCIDR: c.ServiceCIDR.String(), DNS: dns.String(), VNI: vni(caHash), AcrossSites: c.AcrossSites, DirectRoutes: c.DirectRoutes,
		Servers: []string{"https://" + api.String()}, Brokers: []string{broker},
	}, nil
}

// vni is the number of the cluster's VXLAN: from its identity, so that two clusters on one link do not hear each other.
// The first 4,096 are left to people who number by hand.
func vni(caHash string) uint32 {
	const first, count = 1 << 12, 1<<24 - 1<<12
	sum := sha256.Sum256([]byte(caHash))
	return first + binary.BigEndian.Uint32(sum[:4])%count
}

// nodeDialer reaches the agents through their links: the API's way to logs and exec, and to pods where the server is
// not in the mesh itself. Of several servers one has the links; the others go through it.
type nodeDialer struct {
	dispatcher atomic.Pointer[dispatch.Dispatcher] // nil while this server has no links
	nodes      *cache.Cache[corev1.Node]
	elsewhere  func(ctx context.Context, node, address string) (net.Conn, error) // nil: there is no other server
}

func (d *nodeDialer) kubelet(ctx context.Context, node string) (net.Conn, error) {
	if links := d.dispatcher.Load(); links != nil || d.elsewhere == nil {
		return links.DialNode(ctx, node, link.TargetKubelet)
	}
	return d.elsewhere(ctx, node, "")
}

// pod dials the address of a pod: its node does it for us. Any other address is dialled from here.
func (d *nodeDialer) pod(ctx context.Context, network, address string) (net.Conn, error) {
	if a, err := netip.ParseAddrPort(address); err == nil {
		if node := nodeOf(d.nodes.List("", nil), a.Addr()); node != "" {
			if links := d.dispatcher.Load(); links != nil || d.elsewhere == nil {
				return links.DialNode(ctx, node, link.TargetTCP+address)
			}
			return d.elsewhere(ctx, "", address)
		}
	}
	var dial net.Dialer
	return dial.DialContext(ctx, network, address)
}

// nodeOf is the node that has an address: in the subnet of its pods, or, as its pods in the host's network do, as its own. Boards at
// different places may have the same own address: then it is nobody's.
func nodeOf(nodes []*corev1.Node, a netip.Addr) string {
	var own []string
	for _, n := range nodes {
		if subnet, err := netip.ParsePrefix(n.Spec.PodCIDR); err == nil && subnet.Contains(a) {
			return n.Name
		}
		if slices.ContainsFunc(n.Status.Addresses, func(has corev1.NodeAddress) bool {
			ip, err := netip.ParseAddr(has.Address)
			return err == nil && ip == a
		}) {
			own = append(own, n.Name)
		}
	}
	if len(own) != 1 {
		return ""
	}
	return own[0]
}
