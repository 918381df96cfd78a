package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"bramble.dev/mesh/internal/kernel"
)

// Pod is a pod to connect.
type Pod struct {
	ID string // names its namespace
	IP netip.Addr
}

// NetNS is the path of a pod's namespace, whether it exists or not.
func (b *Bridge) NetNS(id string) string { return filepath.Join(b.Dir, id) }

// Attached says whether a pod's namespace exists.
func (b *Bridge) Attached(id string) bool { return mounted(b.NetNS(id)) }

// Attach connects a pod, or completes what an interrupted Attach left. It returns the path of the
// pod's namespace.
func (b *Bridge) Attach(ctx context.Context, p Pod) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return "", err
	}
	path := b.NetNS(p.ID)
	if err := makeNetNS(path); err != nil {
		return "", fmt.Errorf("make the network namespace of pod %s: %w", p.ID, err)
	}
	if err := b.connect(ctx, path, p); err != nil {
		return "", fmt.Errorf("connect pod %s: %w", p.ID, err)
	}
	return path, nil
}

func (b *Bridge) connect(ctx context.Context, path string, p Pod) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer inside.Close()
	master, err := b.host.Find(b.Name)
	if err != nil {
		return err
	}
	if master == nil {
		return fmt.Errorf("bridge %s does not exist", b.Name)
	}
	eth0, err := inside.LinkByName("eth0")
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
		if err := b.pair(master, ns, p.IP); err != nil {
			return err
		}
		if eth0, err = inside.LinkByName("eth0"); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	if err := b.inner(inside, eth0, p.IP); err != nil {
		return err
	}
	if err := b.outer(master, p.IP); err != nil {
		return err
	}
	if err := up(ctx, inside, "eth0"); err != nil {
		return err
	}
	return errors.Join(up(ctx, b.host.Handle, b.vethName(p.IP)), up(ctx, b.host.Handle, b.Name))
}

// up waits until a link passes packets. The kernel gets there a moment after it was told to, and drops
// what is sent before: a container's first DNS query would be lost, and asked again five seconds later.
func up(ctx context.Context, h *netlink.Handle, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for wait := 250 * time.Microsecond; ; wait = min(2*wait, 20*time.Millisecond) {
		l, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("look for %s: %w", name, err)
		}
		if s := l.Attrs().OperState; s == netlink.OperUp || s == netlink.OperUnknown {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s to come up: %w", name, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// pair makes a pair of links, one end on the bridge and one in the pod, in one request: to move a
// link from one namespace to another makes the kernel wait for all its CPUs.
func (b *Bridge) pair(master netlink.Link, ns netns.NsHandle, ip netip.Addr) error {
	name := b.vethName(ip)
	if err := b.host.Remove(name); err != nil { // of a namespace that is gone
		return err
	}
	// What was sent to the address while nobody had it waits in the kernel's queue for an owner, and has
	// passed the policies of then.
	if err := b.forget(master, ip); err != nil {
		return err
	}
	la := netlink.NewLinkAttrs()
	la.Name, la.MTU, la.MasterIndex = name, b.c.MTU, master.Attrs().Index
	v := &netlink.Veth{LinkAttrs: la, PeerName: "eth0", PeerHardwareAddr: podMAC(ip), PeerNamespace: netlink.NsFd(ns), PeerMTU: uint32(b.c.MTU)}
	if err := b.host.LinkAdd(v); err != nil {
		return fmt.Errorf("make links %s and eth0: %w", name, kernel.Explain(err, "virtual Ethernet links (CONFIG_VETH)", "load the module veth"))
	}
	return nil
}

// forget makes the kernel ask anew who has an address.
func (b *Bridge) forget(master netlink.Link, ip netip.Addr) error {
	n := &netlink.Neigh{LinkIndex: master.Attrs().Index, Family: netlink.FAMILY_V4, IP: ip.AsSlice()}
	if err := b.host.NeighDel(n); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("forget who had %s: %w", ip, err)
	}
	return nil
}

// gone removes the link that a pod had. Who connects to its address from then on is told that nobody has it; as long as the kernel
// remembers who had, up to a minute, it would send into nothing.
func (b *Bridge) gone(ip netip.Addr) error {
	err := b.host.Remove(b.vethName(ip))
	master, ferr := b.host.Find(b.Name)
	if ferr == nil && master != nil {
		ferr = b.forget(master, ip)
	}
	return errors.Join(err, ferr)
}

// vethName is the name of a pod's link on the host: by its place in the subnet, so that it is free
// when the address is.
func (b *Bridge) vethName(ip netip.Addr) string {
	a, g := ip.As4(), b.c.Gateway.Masked().Addr().As4()
	n := 0
	for i := range a {
		n = n<<8 | int(a[i]) - int(g[i])
	}
	return b.Veth + strconv.Itoa(n)
}

// podMAC is a pod's Ethernet address: from its IP address, so that no neighbour's cache is ever wrong.
func podMAC(ip netip.Addr) net.HardwareAddr {
	a := ip.As4()
	return kernel.MAC(append([]byte{0x0a, 0x58}, a[:]...))
}

// outer sets up the end on the host.
func (b *Bridge) outer(master netlink.Link, ip netip.Addr) error {
	name := b.vethName(ip)
	l, err := b.host.Find(name)
	if err != nil {
		return err
	}
	if l == nil {
		return fmt.Errorf("link %s does not exist", name)
	}
	if l.Attrs().MasterIndex != master.Attrs().Index {
		if err := b.host.LinkSetMaster(l, master); err != nil {
			return fmt.Errorf("put %s onto %s: %w", name, b.Name, err)
		}
	}
	if l.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err := b.host.Sysctl("ipv6/conf/"+name+"/disable_ipv6", "1"); err != nil {
		return err
	}
	// Where br_netfilter is on, a pod's packet to itself through a Service is turned around on the
	// bridge.
	if err := b.host.LinkSetHairpin(l, true); err != nil {
		return fmt.Errorf("set hairpin mode of %s: %w", name, err)
	}
	if err := b.host.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// inner sets up the pod's side.
func (b *Bridge) inner(h *netlink.Handle, eth0 netlink.Link, ip netip.Addr) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	if err := h.AddrReplace(eth0, &netlink.Addr{IPNet: single(ip)}); err != nil {
		return fmt.Errorf("give eth0 the address %s: %w", ip, err)
	}
	if err := h.LinkSetUp(eth0); err != nil {
		return fmt.Errorf("set eth0 up: %w", err)
	}
	gw := b.c.Gateway.Addr()
	index := eth0.Attrs().Index
	for _, r := range []netlink.Route{
		{LinkIndex: index, Dst: single(gw), Scope: netlink.SCOPE_LINK},
		{LinkIndex: index, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: gw.AsSlice()},
	} {
		if err := h.RouteReplace(&r); err != nil {
			return fmt.Errorf("set the pod's route %s: %w", r, err)
		}
	}
	return nil
}

// Detach removes a pod's link and namespace. What is not there is no error.
func (b *Bridge) Detach(ctx context.Context, p Pod) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	if p.IP.Is4() && b.c.Gateway.IsValid() {
		errs = append(errs, b.gone(p.IP))
	}
	errs = append(errs, removeNetNS(b.NetNS(p.ID)))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("disconnect pod %s: %w", p.ID, err)
	}
	return nil
}

// Sweep removes the links and namespaces of all pods but those given.
func (b *Bridge) Sweep(ctx context.Context, keep []Pod) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.sweep(keep)
}

func (b *Bridge) sweep(keep []Pod) error {
	ids, names := map[string]bool{}, map[string]bool{}
	for _, p := range keep {
		ids[p.ID] = true
		names[b.vethName(p.IP)] = true
	}
	var errs []error
	links, err := b.host.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		errs = append(errs, fmt.Errorf("list links: %w", err))
	}
	for _, l := range links {
		n := l.Attrs().Name
		if strings.HasPrefix(n, b.Veth) && l.Type() == "veth" && !names[n] {
			errs = append(errs, b.host.Remove(n))
		}
	}
	entries, err := os.ReadDir(b.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, fmt.Errorf("list network namespaces: %w", err))
	}
	for _, e := range entries {
		if !ids[e.Name()] {
			errs = append(errs, removeNetNS(b.NetNS(e.Name())))
		}
	}
	return errors.Join(errs...)
}
