package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"

	"bramble.dev/mesh/internal/kernel"
)

// Options are fixed for a Bridge's life.
type Options struct {
	Name string // of the bridge
	Veth string // what the names of pods' links on the host begin with
	// Metric of the route to Services: agents that share a namespace must not have the same one.
	Metric int
	MAC    net.HardwareAddr // of the bridge: fixed, or it would change with the first pod that comes or goes
	Dir    string           // where the pods' namespaces are mounted
}

// Config is what may change.
type Config struct {
	Gateway  netip.Prefix // the bridge's address and the length of the node's pod subnet
	Services netip.Prefix // addresses of Services
	Cluster  netip.Prefix // addresses of all nodes' pods
	MTU      int
}

// Bridge is the node's bridge.
type Bridge struct {
	Options
	host *kernel.Host
	mu   sync.Mutex
	c    Config
}

// Open makes a Bridge; it changes nothing.
func Open(host *kernel.Host, o Options) *Bridge { return &Bridge{Options: o, host: host} }

// Set makes the bridge what the configuration says.
func (b *Bridge) Set(ctx context.Context, c Config) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	l, err := b.link(c)
	if err != nil {
		return err
	}
	b.c = c
	return errors.Join(b.configure(l, c), b.addresses(l, c.Gateway), b.setRoutes(routes(l, c)), b.sysctls())
}

// link finds the bridge, or makes it.
func (b *Bridge) link(c Config) (netlink.Link, error) {
	l, err := b.host.Find(b.Name)
	if err != nil {
		return nil, err
	}
	if l != nil && l.Type() != "bridge" {
		return nil, fmt.Errorf("link %s is a %s, not a bridge: remove it", b.Name, l.Type())
	}
	if l != nil {
		return l, nil
	}
	la := netlink.NewLinkAttrs()
	la.Name, la.HardwareAddr, la.MTU = b.Name, b.MAC, c.MTU
	snooping := false // nobody here speaks multicast, and its timers wake an idle board
	if l, err = b.host.Make(&netlink.Bridge{LinkAttrs: la, MulticastSnooping: &snooping}); err != nil {
		return nil, fmt.Errorf("make bridge %s: %w", b.Name, kernel.Explain(err, "bridges (CONFIG_BRIDGE)", "load the module bridge"))
	}
	return l, nil
}

func (b *Bridge) configure(l netlink.Link, c Config) error {
	if err := b.host.SetUp(l, b.MAC, c.MTU); err != nil {
		return fmt.Errorf("set up bridge %s: %w", b.Name, err)
	}
	return nil
}

// addresses gives the bridge its address and takes what an earlier subnet left.
func (b *Bridge) addresses(l netlink.Link, want netip.Prefix) error {
	have, err := b.host.AddrList(l, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", b.Name, err)
	}
	wanted := &netlink.Addr{IPNet: ipNet(want)}
	found := false
	var errs []error
	for _, a := range have {
		found = found || a.IPNet.String() == wanted.IPNet.String()
	}
	if !found {
		if err := b.host.AddrAdd(l, wanted); err != nil {
			errs = append(errs, fmt.Errorf("give %s the address %s: %w", b.Name, want, err))
		}
	}
	for _, a := range have {
		if a.IPNet.String() != wanted.IPNet.String() {
			if err := b.host.AddrDel(l, &a); err != nil {
				errs = append(errs, fmt.Errorf("take the address %s from %s: %w", a.IPNet, b.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// Teardown removes the bridge, and with it the pods' links.
func (b *Bridge) Teardown(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return errors.Join(b.sweep(nil), b.setRoutes(nil), b.host.Remove(b.Name))
}

func (b *Bridge) sysctls() error {
	return errors.Join(
		b.host.Sysctl("ipv4/ip_forward", "1"),
		b.host.Sysctl("ipv4/conf/"+b.Name+"/forwarding", "1"),
		b.host.Sysctl("ipv4/conf/"+b.Name+"/route_localnet", "1"), // 127.0.0.1:<node port>
		// Pods have no link to each other but through this host, which would tell them of a shorter way.
		// The value for all links is or-ed with each link's own, so the others redirect as before.
		b.host.Sysctl("ipv4/conf/"+b.Name+"/send_redirects", "0"),
		b.host.Sysctl("ipv4/conf/all/send_redirects", "0"),
		// A half-closed connection through a Service would lose its translation after a minute:
		// kubernetes/kubernetes#32551.
		b.host.AtLeast("netfilter/nf_conntrack_tcp_timeout_close_wait", 3600),
	)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func single(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }
