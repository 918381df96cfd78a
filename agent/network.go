package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/apiproxy"
	"bramble.dev/agent/catalog"
	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
	"bramble.dev/link"
	"bramble.dev/mesh"
	"bramble.dev/mesh/ingress"
)

// apiPort is where pods' calls to the API end on the node's gateway address; another one is taken
// if it is in use.
const apiPort = 6444

// network keeps the mesh as the server wants it, and is the mesh for the pod workers.
type network struct {
	*mesh.Mesh
	catalog *catalog.Catalog
	node    string
	labels  map[string]string // that the node was started with
	nodeIP  func() netip.Addr
	proxy   *apiproxy.Proxy
	log     *slog.Logger
	changed chan struct{} // capacity 1
	// resolvConf is the file that names the node's resolvers.
	resolvConf string
	ports      ports
	ingress    *ingress.Runner // nil: Ingresses are not served here
	event      func(ref corev1.ObjectReference, kind, reason, message string)
	complained map[string]bool // of Ingresses, so that each problem is told once; run's alone
	// told is called when the node's status is to be told anew.
	told func()
	// settled is called after each Set with why the network does not work, or nil.
	settled func(error)

	serving sync.WaitGroup // the API proxy

	mu       sync.Mutex
	listener net.Listener // of the API proxy
	failed   error
	once     bool     // Set has succeeded
	asks     []string // the resolvers that the network was last set with
	asked    bool     // it was
}

// Attach implements seam.Network.
func (n *network) Attach(ctx context.Context, pod *corev1.Pod) (seam.Attachment, error) {
	p := mesh.PodNetwork{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels, Ports: mesh.PortsOf(pod)}
	for c := range podspec.All(pod) {
		for _, port := range c.Ports {
			if port.HostPort == 0 {
				continue
			}
			h := mesh.HostPort{HostPort: uint16(port.HostPort), Port: uint16(port.ContainerPort), Protocol: port.Protocol}
			if port.HostIP != "" {
				ip, err := netip.ParseAddr(port.HostIP)
				if err != nil {
					return seam.Attachment{}, fmt.Errorf("hostIP of port %d: %w", port.HostPort, err)
				}
				h.HostIP = ip
			}
			p.HostPorts = append(p.HostPorts, h)
		}
	}
	a, err := n.Mesh.Attach(ctx, p)
	return seam.Attachment{NetNS: a.NetNS, IP: a.IP}, err
}

// poke makes the network be set soon.
func (n *network) poke() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// gather is how long changes are gathered: a rollout changes endpoints many times a second.
const gather = 20 * time.Millisecond

// run sets the network whenever something changed, until ctx is done; err is how the first time went.
func (n *network) run(ctx context.Context, err error) {
	defer n.close()
	retry := time.Second
	for ; ; err = n.set(ctx) {
		var again <-chan time.Time
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			n.log.Error("the network is not as it should be", "err", err, "retry", retry)
			again = time.After(retry)
			retry = min(2*retry, time.Minute)
		} else {
			retry = time.Second
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
		case <-n.changed:
			select {
			case <-time.After(gather):
			case <-ctx.Done():
				return
			}
		}
	}
}

var errNoSubnet = errors.New("the node has no pod subnet yet")

// set sets the network once. A node that the server has not told its subnet has none to set.
func (n *network) set(ctx context.Context) error {
	c, err := n.config()
	if errors.Is(err, errNoSubnet) {
		n.note(err)
		return nil
	}
	if err == nil {
		c.API = n.listen(ctx, c.PodCIDR)
		err = errors.Join(n.Mesh.Set(ctx, c), n.setIngress(ctx, c))
	}
	n.note(err)
	return err
}

func (n *network) note(err error) {
	n.mu.Lock()
	changed := (n.failed == nil) != (err == nil) || !n.once
	n.failed, n.once = err, n.once || err == nil
	n.mu.Unlock()
	if changed {
		n.settled(err)
	}
}

// problem is why the network does not work, or nil.
func (n *network) problem() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.once && n.failed == nil {
		return errNoSubnet
	}
	return n.failed
}

func (n *network) config() (mesh.Config, error) {
	node, cluster := n.catalog.Node(), n.catalog.Cluster()
	if node == nil || node.Spec.PodCIDR == "" || cluster == nil {
		return mesh.Config{}, errNoSubnet
	}
	c := mesh.Config{
		Site: n.site(node), AcrossSites: cluster.AcrossSites, DirectRoutes: cluster.DirectRoutes,
		Node: n.node, Zone: node.Labels[corev1.LabelTopologyZone], NodeIP: n.nodeIP(), VNI: cluster.VNI, Domain: cluster.Domain,
		EndpointSlices: n.catalog.EndpointSlices(), Policies: n.policies, Upstream: n.upstream(),
		Cluster: cluster.ID, BalancerClass: link.LoadBalancerClass,
	}
	_, c.Unannounced = node.Labels[corev1.LabelNodeExcludeBalancers]
	for to, from := range map[*netip.Prefix]string{&c.PodCIDR: node.Spec.PodCIDR, &c.ClusterCIDR: cluster.PodCIDR, &c.ServiceCIDR: cluster.ServiceCIDR} {
		p, err := netip.ParsePrefix(from)
		if err != nil {
			return c, fmt.Errorf("the server's idea of the network: %w", err)
		}
		*to = p.Masked()
	}
	if cluster.DNS != "" {
		dns, err := netip.ParseAddr(cluster.DNS)
		if err != nil {
			return c, fmt.Errorf("the server's idea of the cluster's DNS: %w", err)
		}
		c.DNS = dns
	}
	for _, p := range n.catalog.Peers() {
		if p.Node == n.node {
			continue
		}
		peer, err := toPeer(p)
		if err != nil {
			n.log.Debug("a peer is not complete yet", "peer", p.Node, "err", err)
			continue
		}
		c.Peers = append(c.Peers, peer)
	}
	c.Services = n.services(c, slices.Concat(cluster.Servers, cluster.Brokers))
	return c, nil
}

// services are those of the cluster, without what programs of this board stand in the way of.
func (n *network) services(c mesh.Config, servers []string) []*corev1.Service {
	services, _ := n.catalog.Services()
	at := addresses{self: c.NodeIP, own: ownAddresses(), nodes: map[netip.Addr]bool{c.NodeIP: true}, inside: []netip.Prefix{c.ClusterCIDR, c.ServiceCIDR}}
	for _, p := range c.Peers {
		at.nodes[p.IP] = true
	}
	for _, server := range servers { // which need not be nodes
		if u, err := url.Parse(server); err == nil {
			if a, err := netip.ParseAddr(u.Hostname()); err == nil {
				at.nodes[a] = true
			}
		}
	}
	services, changed, err := n.ports.serve(services, at)
	if err != nil {
		n.log.Warn("the ports that are in use on this board cannot be found out", "err", err)
	}
	if changed {
		n.told()
	}
	return services
}

// ownAddresses are those of all links of this board. None can be told when they cannot be listed.
func ownAddresses() map[string]bool {
	out := map[string]bool{}
	list, _ := net.InterfaceAddrs()
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			out[n.IP.String()] = true
		}
	}
	return out
}

// policies are those that the node knows now, once it was told all.
func (n *network) policies() (p mesh.Policies, known bool) {
	if !n.catalog.Loaded(catalog.Node) {
		return p, false
	}
	p.Pods, p.Policies, p.Peers, p.Namespaces = n.catalog.Policies()
	return p, true
}

// site is where this node is. Its own label counts before the server has heard of it: until then no
// tunnel leads to where it must not.
func (n *network) site(node *corev1.Node) string {
	if site, ok := n.labels[link.SiteLabel]; ok {
		return site
	}
	return node.Labels[link.SiteLabel]
}

// sites are this node's and those that its pods do not reach.
func (n *network) sites() (own string, others []string) {
	if node := n.catalog.Node(); node != nil {
		own = n.site(node)
	}
	if cluster := n.catalog.Cluster(); cluster != nil {
		others = cluster.OtherSites
	}
	return own, others
}

func toPeer(from link.Peer) (p mesh.Peer, err error) {
	p.Node, p.Site = from.Node, from.Site
	if p.IP, err = netip.ParseAddr(from.IP); err != nil {
		return p, err
	}
	if p.PodCIDR, err = netip.ParsePrefix(from.PodCIDR); err != nil {
		return p, err
	}
	p.MAC, err = net.ParseMAC(from.MAC)
	return p, err
}

// upstream are the node's own resolvers, in the order in which it asks them.
func (n *network) upstream() []string {
	list := resolvers(n.resolvConf)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asks, n.asked = list, true
	return list
}

// asksOthers says whether the node asks other resolvers than when the network was last set. A modem that comes up, or another
// Wi-Fi, may bring some with no change of the node's address or of anything in the cluster.
func (n *network) asksOthers() bool {
	list := resolvers(n.resolvConf)
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked && !slices.Equal(list, n.asks)
}

func resolvers(path string) []string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return podspec.ParseResolvConf(string(b)).Servers
}

// listen opens the API's door for pods. The address is the bridge's, which may not be there yet.
func (n *network) listen(ctx context.Context, subnet netip.Prefix) netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listener == nil {
		gateway := subnet.Masked().Addr().Next()
		free := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) }); e != nil {
				return e
			}
			return err
		}}
		l, err := free.Listen(ctx, "tcp4", netip.AddrPortFrom(gateway, apiPort).String())
		if errors.Is(err, unix.EADDRINUSE) {
			l, err = free.Listen(ctx, "tcp4", netip.AddrPortFrom(gateway, 0).String())
		}
		if err != nil {
			n.log.Error("pods cannot reach the API", "err", err)
			return netip.AddrPort{}
		}
		n.listener = l
		n.serving.Go(func() { // ends with ctx; close waits
			if err := n.proxy.Serve(ctx, l); err != nil {
				n.log.Error("pods cannot reach the API", "err", err)
			}
		})
	}
	return n.listener.Addr().(*net.TCPAddr).AddrPort()
}

func (n *network) close() {
	n.mu.Lock()
	if n.listener != nil {
		n.listener.Close()
	}
	n.mu.Unlock()
	n.serving.Wait()
}

var _ seam.Network = (*network)(nil)
