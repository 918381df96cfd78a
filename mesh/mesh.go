package mesh

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/mesh/announce"
	"bramble.dev/mesh/bridge"
	"bramble.dev/mesh/dns"
	"bramble.dev/mesh/firewall"
	"bramble.dev/mesh/health"
	"bramble.dev/mesh/internal/kernel"
	"bramble.dev/mesh/ipam"
	"bramble.dev/mesh/nft"
	"bramble.dev/mesh/policy"
	"bramble.dev/mesh/services"
	"bramble.dev/mesh/vxlan"
)

// Mesh is a node's network.
type Mesh struct {
	Options
	host     *kernel.Host
	nft      *nft.Conn
	pool     *ipam.Pool
	bridge   *bridge.Bridge
	tunnel   *vxlan.Tunnel
	services *services.Proxy
	policy   *policy.Filter
	dns      *dns.Server
	firewall *firewall.Firewall
	balancer *announce.Announcer
	health   *health.Server

	end     context.CancelFunc
	watcher sync.WaitGroup

	mu     sync.Mutex
	config Config              // of the last Set
	link   vxlan.Link          // that direct routes lead over
	ready  bool                // there was one
	pods   map[string]attached // by UID
}

var instance = regexp.MustCompile(`^[0-9a-f]{6}$`)

// Open takes hold of the node's network. It changes nothing: what an earlier agent left serves on.
func Open(ctx context.Context, o Options) (_ *Mesh, err error) {
	if !instance.MatchString(o.Instance) {
		return nil, fmt.Errorf("open the mesh: instance %q is not six hexadecimal digits", o.Instance)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.recheck <= 0 {
		o.recheck = 30 * time.Second
	}
	m := &Mesh{Options: o, pods: map[string]attached{}}
	if m.host, err = kernel.Open(); err != nil {
		return nil, fmt.Errorf("open the mesh: %w", err)
	}
	if m.nft, err = nft.Dial(); err != nil {
		m.host.Close()
		return nil, fmt.Errorf("open the mesh: %w", err)
	}
	if m.pool, err = ipam.Open(filepath.Join(o.Dir, "ipam")); err != nil {
		m.host.Close()
		return nil, errors.Join(fmt.Errorf("open the mesh: %w", err), m.nft.Close())
	}
	m.bridge = bridge.Open(m.host, bridge.Options{Name: "br-" + o.Instance, Veth: "ve" + o.Instance, Metric: metric(o.Instance), MAC: address(o.Instance+o.Board, "bridge"), Dir: filepath.Join(o.Dir, "netns")})
	m.tunnel = vxlan.Open(m.host, vxlan.Options{Name: "vx-" + o.Instance, MAC: m.MAC(), Metric: 1<<16 + metric(o.Instance)})
	m.services = services.Open(m.nft, services.Options{Table: "bramble-" + o.Instance, Logger: o.Logger, Conntrack: conntrack{m.host}})
	m.policy = policy.Open(m.nft, policy.Options{Table: "bramble-" + o.Instance + "-policy", Logger: o.Logger})
	m.dns = dns.Open(dns.Options{Logger: o.Logger, Enter: m.host.Do})
	m.firewall = firewall.Open(firewall.Options{Instance: o.Instance, Bridge: m.bridge.Name, Tunnel: m.tunnel.Name, Table: m.services.Table, Logger: o.Logger, Chains: m.nft.BaseChains, Enter: m.host.Do})
	m.balancer = announce.Open(announce.Options{Logger: o.Logger, Enter: m.host.Do, Took: o.Announces})
	m.health = health.Open(health.Options{Logger: o.Logger, Enter: m.host.Do, Failed: o.Unasked})
	m.adopt()
	watch, end := context.WithCancel(context.WithoutCancel(ctx))
	m.end = end
	m.watcher.Go(func() { m.watch(watch) })
	return m, nil
}

// address is a link's Ethernet address, the same after every start and on no other board.
func address(instance, use string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("bramble " + use + " " + instance))
	return kernel.MAC(sum[:6])
}

// metric of a route that agents in one namespace have each: any, but not the same.
func metric(instance string) int {
	sum := sha256.Sum256([]byte("bramble metric " + instance))
	return 1<<16 + int(sum[0])<<8 + int(sum[1])
}

// Close stops the name server and lets go of the kernel. Everything else serves on.
func (m *Mesh) Close() error {
	m.end()
	m.watcher.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.health.Close()
	err := errors.Join(m.balancer.Close(), m.dns.Close(), m.nft.Close())
	m.host.Close()
	return err
}

// MAC is the address of this node's VXLAN device, which the peers must be told.
func (m *Mesh) MAC() net.HardwareAddr { return address(m.Instance+m.Board, "vxlan") }

// Set makes the node's network what the configuration says.
func (m *Mesh) Set(ctx context.Context, c Config) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	c = c.withDefaults()
	if err := c.check(); err != nil {
		return fmt.Errorf("set up the mesh: %w", err)
	}
	addrs, err := m.addresses()
	if err != nil {
		return fmt.Errorf("set up the mesh: %w", err)
	}
	if err := m.free(c.PodCIDR, addrs); err != nil {
		return fmt.Errorf("set up the mesh: %w", err)
	}
	if far := c.elsewhere(); far != "" && far != m.config.elsewhere() {
		m.Logger.Warn("the tunnel does not lead to nodes of other sites, because it is not encrypted", "site", c.Site, "nodes", far)
	}
	m.config, m.ready = c, true
	return m.set(ctx, addrs)
}

// set makes the network what the last configuration says, on a host with these addresses.
func (m *Mesh) set(ctx context.Context, addrs []netlink.Addr) error {
	c := m.config
	gw := ipam.Gateway(c.PodCIDR)
	link, under, err := m.under(c.NodeIP, addrs)
	// It is the same for a node without peers, because pods keep it for life. With direct routes a packet
	// that is too large for the tunnel to a peer elsewhere is sent back to the pod by this host itself.
	mtu := under - vxlan.Overhead
	if c.DirectRoutes {
		mtu = under
		if len(addrs) == 0 { // they could not be listed
			link = m.link
		}
	} else {
		link = vxlan.Link{}
	}
	m.link = link
	errs := []error{err}
	part := func(name string, f func() error) {
		if err := f(); err != nil {
			errs = append(errs, fmt.Errorf("set up %s: %w", name, err))
		}
	}
	part("network policies", func() error {
		if err := m.setPolicy(ctx); !errors.Is(err, errUnknown) {
			return err
		}
		return nil
	})
	part("the pods' bridge", func() error {
		return m.bridge.Set(ctx, bridge.Config{Gateway: netip.PrefixFrom(gw, c.PodCIDR.Bits()), Services: c.ServiceCIDR, Cluster: c.ClusterCIDR, MTU: mtu})
	})
	// Names first: pods of before a restart are asking already.
	part("the name server", func() error {
		return m.dns.Set(ctx, dns.Config{Domain: c.Domain, Listen: netip.AddrPortFrom(gw, 53), Self: c.DNS,
			Addresses: []netip.Prefix{c.ClusterCIDR, c.ServiceCIDR}, Services: c.Services, Endpoints: c.EndpointSlices, Upstream: c.Upstream})
	})
	healthy := true
	part("Services", func() error {
		err := m.setServices(ctx)
		healthy = err == nil
		return err
	})
	m.health.Set(health.Config{Node: c.Node, Services: c.Services, Endpoints: c.EndpointSlices, Healthy: healthy})
	part("the tunnel to other nodes", func() error { return m.tunnel.Set(ctx, c.tunnel(under-vxlan.Overhead, link)) })
	addresses := c.announcement()
	part("the host's firewall", func() error {
		f := firewall.Config{TunnelPort: c.Port}
		if len(addresses.Addresses) > 0 {
			f.AnnouncePort = announce.Port
		}
		return m.firewall.Set(ctx, f)
	})
	// Last: who comes to an address finds that it is served.
	part("load balancers", func() error { return m.balancer.Set(ctx, addresses) })
	return errors.Join(errs...)
}

// setServices hands the last configuration and the attached pods to the Services' rules.
func (m *Mesh) setServices(ctx context.Context) error {
	c := m.config
	pods := make([]services.Pod, 0, len(m.pods))
	for _, p := range m.pods {
		if p.linked {
			pods = append(pods, p.service())
		}
	}
	slices.SortFunc(pods, func(a, b services.Pod) int { return a.IP.Compare(b.IP) })
	return m.services.Set(ctx, services.Config{
		Node: c.Node, Zone: c.Zone, Bridge: m.bridge.Name, Tunnel: m.tunnel.Name,
		VNI: c.VNI, TunnelPort: c.Port, Peers: vxlan.Hosts(c.tunnel(0, vxlan.Link{})), Direct: c.DirectRoutes, Gateway: ipam.Gateway(c.PodCIDR),
		PodCIDR: c.PodCIDR, Cluster: c.ClusterCIDR, ServiceIPs: c.ServiceCIDR, DNS: c.DNS, Resolver: m.dns.Addr(), API: c.API,
		Services: c.Services, Endpoints: c.EndpointSlices, Pods: pods,
	})
}

var errUnknown = errors.New("the server has not told which there are")

// setPolicy hands the last configuration's policies and the attached pods to the filter.
func (m *Mesh) setPolicy(ctx context.Context) error {
	told := m.config.Policies != nil
	var c Policies
	if told {
		var known bool
		if c, known = m.config.Policies(); !known {
			return errUnknown
		}
	}
	known := make(map[types.UID]*corev1.Pod, len(c.Pods))
	for _, p := range c.Pods {
		known[p.UID] = p
	}
	pods := make([]policy.Pod, 0, len(m.pods))
	for id, p := range m.pods {
		pods = append(pods, p.policy(known[types.UID(id)], told))
	}
	slices.SortFunc(pods, func(a, b policy.Pod) int { return a.IP.Compare(b.IP) })
	return m.policy.Set(ctx, policy.Config{Bridge: m.bridge.Name, Policies: c.Policies, Namespaces: c.Namespaces, Peers: c.Peers, Pods: pods})
}

// Teardown removes all that this instance has on the machine, and nothing else.
func (m *Mesh) Teardown(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ready = false
	m.health.Close()
	errs := []error{m.balancer.Close(), m.dns.Close(), m.firewall.Teardown(ctx), m.services.Teardown(ctx), m.policy.Teardown(ctx), m.tunnel.Teardown(ctx), m.bridge.Teardown(ctx)}
	for _, l := range m.pool.List() {
		errs = append(errs, m.pool.Release(l.ID))
	}
	clear(m.pods)
	return errors.Join(errs...)
}
