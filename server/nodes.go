package server

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"k8s.io/client-go/kubernetes"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
	"bramble.dev/server/auth"
	"bramble.dev/server/broker"
	"bramble.dev/server/cache"
	"bramble.dev/server/dispatch"
	"bramble.dev/server/store"
)

// newDispatcher is the server's end of the link to all nodes.
func newDispatcher(c Config, db *store.DB, pki *auth.PKI, caches *cache.Set, client kubernetes.Interface, t broker.Transport, brokerURL string, apiAddress netip.AddrPort, bound net.Addr) (*dispatch.Dispatcher, error) {
	linkKey, err := dispatch.LinkKey(pki)
	if err != nil {
		return nil, err
	}
	dns, err := dnsAddress(c.ServiceCIDR)
	if err != nil {
		return nil, fmt.Errorf("--service-cidr %s: %w", c.ServiceCIDR, err)
	}
	return dispatch.New(dispatch.Config{
		Caches: caches, Client: client, Transport: t, Identity: pki, LinkKey: linkKey,
		CheckToken: func(ctx context.Context, token string) error {
			return auth.CheckJoinToken(ctx, client, token, pki.CAHash())
		},
		DialAPI: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", bound.String())
		},
		Cluster: link.ClusterConfig{
			ID: link.ClusterID(pki.CAHash()), Incarnation: db.Incarnation(), Domain: c.Domain, Version: c.Version,
			PodCIDR: c.PodCIDR.String(), ServiceCIDR: c.ServiceCIDR.String(), DNS: dns.String(), VNI: vni(pki.CAHash()), AcrossSites: c.AcrossSites, DirectRoutes: c.DirectRoutes,
			Servers: []string{"https://" + apiAddress.String()}, Brokers: []string{brokerURL},
		},
		Logger: c.Logger.With("part", "dispatch"),
	})
}

// vni is the number of the cluster's VXLAN: from its identity, so that two clusters on one link do not hear each other.
// The first 4,096 are left to people who number by hand.
func vni(caHash string) uint32 {
	const first, count = 1 << 12, 1<<24 - 1<<12
	sum := sha256.Sum256([]byte(caHash))
	return first + binary.BigEndian.Uint32(sum[:4])%count
}

// nodeDialer reaches the agents through their links: the API's way to logs and exec, and to pods where the server is
// not in the mesh itself.
type nodeDialer struct {
	dispatcher *dispatch.Dispatcher
	nodes      *cache.Cache[corev1.Node]
}

func (d *nodeDialer) kubelet(ctx context.Context, node string) (net.Conn, error) {
	return d.dispatcher.DialNode(ctx, node, link.TargetKubelet)
}

// pod dials an address in the cluster's network: the node whose subnet holds it does it for us. Any other address
// is dialled from here.
func (d *nodeDialer) pod(ctx context.Context, network, address string) (net.Conn, error) {
	if a, err := netip.ParseAddrPort(address); err == nil {
		for _, n := range d.nodes.List("", nil) {
			if subnet, err := netip.ParsePrefix(n.Spec.PodCIDR); err == nil && subnet.Contains(a.Addr()) {
				return d.dispatcher.DialNode(ctx, n.Name, link.TargetTCP+address)
			}
		}
	}
	var dial net.Dialer
	return dial.DialContext(ctx, network, address)
}
