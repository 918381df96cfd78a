package vxlan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"bramble.dev/mesh/internal/kernel"
)

// Overhead is what VXLAN adds to a packet of IPv4: the outer IP, UDP, VXLAN and inner Ethernet headers.
const Overhead = 50

// Peer is another node.
type Peer struct {
	Node    string
	IP      netip.Addr
	PodCIDR netip.Prefix
	MAC     net.HardwareAddr // of its VXLAN device
	Site    string           // where it is, if that is known
}

// Options are fixed for a Tunnel's life.
type Options struct {
	Name string           // of the device
	MAC  net.HardwareAddr // of the device: peers are told it
	// Metric of direct routes: agents that share a namespace must not have the same one. 0: there are none.
	Metric int
}

// Config is what may change.
type Config struct {
	Node    string
	NodeIP  netip.Addr
	PodCIDR netip.Prefix
	Gateway netip.Addr // the bridge's address
	VNI     uint32
	Port    uint16
	MTU     int    // of the device
	Site    string // where this node is
	Open    bool   // also to other sites: the tunnel is not encrypted
	Link    Link   // over which peers are reached directly
	Peers   []Peer
}

// Tunnel is the node's VXLAN device.
type Tunnel struct {
	Options
	host *kernel.Host
	mu   sync.Mutex
}

// Open makes a Tunnel; it changes nothing.
func Open(host *kernel.Host, o Options) *Tunnel { return &Tunnel{Options: o, host: host} }

// Set makes the device and its entries what the configuration says.
func (t *Tunnel) Set(ctx context.Context, c Config) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	have, err := t.hops()
	if err != nil {
		return err
	}
	hops := direct(c)
	err = t.setHops(have, hops, false)
	if errors.Is(err, unix.ENETUNREACH) { // the link is down, or its daemon is about to lay the route to its network: until then the tunnel leads to all
		c.Link = Link{}
		hops, err = nil, nil
	}
	return errors.Join(err, t.set(c), t.setHops(have, hops, true))
}

// set makes the device and what is sent through it.
func (t *Tunnel) set(c Config) error {
	wanted := Wanted(c)
	if len(wanted.Routes) == 0 {
		return t.host.Remove(t.Name)
	}
	l, err := t.device(c)
	if err != nil {
		return err
	}
	observed, err := t.observe(l)
	errs := []error{err}
	for _, st := range Plan(observed, wanted) {
		if err := t.apply(l, st); err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", t.Name, st, err))
		}
	}
	return errors.Join(errs...)
}

// device finds the device, or makes it; one with other parameters is made anew, because most of them
// cannot be changed.
func (t *Tunnel) device(c Config) (netlink.Link, error) {
	l, err := t.host.Find(t.Name)
	if err != nil {
		return nil, err
	}
	if l != nil && !t.fits(l, c) {
		if err := t.host.Remove(t.Name); err != nil {
			return nil, err
		}
		l = nil
	}
	if l == nil {
		if l, err = t.create(c); err != nil {
			return nil, err
		}
	}
	return l, t.configure(l, c)
}

func (t *Tunnel) fits(l netlink.Link, c Config) bool {
	v, ok := l.(*netlink.Vxlan)
	return ok && v.VxlanId == int(c.VNI) && v.Port == int(c.Port) && !v.Learning && v.SrcAddr.Equal(c.NodeIP.AsSlice())
}

func (t *Tunnel) create(c Config) (netlink.Link, error) {
	la := netlink.NewLinkAttrs()
	la.Name, la.HardwareAddr, la.MTU = t.Name, t.MAC, c.MTU
	v := &netlink.Vxlan{LinkAttrs: la, VxlanId: int(c.VNI), Port: int(c.Port), SrcAddr: c.NodeIP.AsSlice()}
	l, err := t.host.Make(v)
	switch {
	case errors.Is(err, unix.EEXIST):
		return nil, fmt.Errorf("make VXLAN device %s: %w", t.Name, t.conflict(c, err))
	case err != nil:
		return nil, fmt.Errorf("make VXLAN device %s: %w", t.Name, kernel.Explain(err, "VXLAN (CONFIG_VXLAN), pods of other nodes cannot be reached", "load the module vxlan; on Ubuntu for Raspberry Pi it is in the package linux-modules-extra-raspi"))
	}
	return l, nil
}

// conflict names the device that has the same network identifier: the kernel tells a packet's device
// by identifier and port alone.
func (t *Tunnel) conflict(c Config, err error) error {
	links, lerr := t.host.LinkList()
	if lerr != nil {
		return err
	}
	for _, l := range links {
		if v, ok := l.(*netlink.Vxlan); ok && v.VxlanId == int(c.VNI) && v.Port == int(c.Port) {
			return fmt.Errorf("%s has VXLAN identifier %d on UDP port %d already; two agents of one cluster in one network namespace can share a host but not its tunnel to others, two clusters need different identifiers: %w", v.Name, c.VNI, c.Port, err)
		}
	}
	return err
}

func (t *Tunnel) configure(l netlink.Link, c Config) error {
	err := errors.Join(
		t.host.SetUp(l, t.MAC, c.MTU),
		t.host.Sysctl("ipv4/conf/"+t.Name+"/forwarding", "1"),
		t.host.Sysctl("ipv4/conf/"+t.Name+"/route_localnet", "1"), // answers to 127.0.0.1:<node port>
	)
	switch {
	case errors.Is(err, unix.EADDRINUSE): // the kernel opens the socket when the device comes up
		return fmt.Errorf("set up VXLAN device %s: UDP port %d is taken, by a program or by a VXLAN device with other options: stop it, or choose another port for the cluster: %w", t.Name, c.Port, err)
	case err != nil:
		return fmt.Errorf("set up VXLAN device %s: %w", t.Name, err)
	}
	return nil
}

// Teardown removes the device, and with it its entries.
func (t *Tunnel) Teardown(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	have, err := t.hops()
	return errors.Join(err, t.setHops(have, nil, true), t.host.Remove(t.Name))
}
