package mesh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"bramble.dev/mesh/internal/kernel"
	"bramble.dev/mesh/services"
	"bramble.dev/mesh/vxlan"
)

// under is the link with the node's address, and what it carries.
func (m *Mesh) under(node netip.Addr, addrs []netlink.Addr) (l vxlan.Link, mtu int, err error) {
	const usual = 1500
	mtu = usual
	for _, a := range addrs {
		if ip, _ := netip.AddrFromSlice(a.IP); ip.Unmap() != node {
			continue
		}
		found, err := m.host.LinkByIndex(a.LinkIndex)
		if err != nil {
			return l, mtu, fmt.Errorf("look at the link of %s: %w", node, err)
		}
		ones, _ := a.Mask.Size()
		l = vxlan.Link{Index: a.LinkIndex, Subnet: netip.PrefixFrom(node, ones).Masked()}
		if n := found.Attrs().MTU; n > 576 {
			mtu = min(n, 65535) // loopback has 65536
		}
	}
	return l, mtu, nil
}

// addresses are those of this host; a list that changed while it was read will do.
func (m *Mesh) addresses() ([]netlink.Addr, error) {
	addrs, err := m.host.AddrList(nil, netlink.FAMILY_V4)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return addrs, nil
}

// free sees that no other link of this host lives in the node's subnet: a second instance with the same ranges would take
// the first one's packets, and neither would work.
func (m *Mesh) free(subnet netip.Prefix, addrs []netlink.Addr) error {
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		if p := netip.PrefixFrom(ip.Unmap(), ones); !p.IsValid() || !p.Overlaps(subnet) {
			continue
		}
		l, err := m.host.LinkByIndex(a.LinkIndex)
		if err != nil { // it has gone meanwhile
			continue
		}
		if name := l.Attrs().Name; name != m.bridge.Name && name != m.tunnel.Name {
			return fmt.Errorf("pod network %s is in use on this host: link %s has %s/%d: give this instance another --pod-cidr", subnet, name, ip.Unmap(), ones)
		}
	}
	return nil
}

// NodeIP is the address to use towards the server. The hint is an address of this host, which is then
// taken, or the server's: a URL, host or address, with or without a port. Without a hint it is the
// address of the default route.
func NodeIP(hint string) (netip.Addr, error) {
	host := hint
	if u, err := url.Parse(hint); err == nil && u.Host != "" {
		host = u.Host
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if a, err := netip.ParseAddr(host); err == nil && local(a) && !a.IsLoopback() && !a.IsUnspecified() {
		return a.Unmap(), nil
	}
	if host != "" {
		if a, err := towards(host); err == nil && !a.IsLoopback() {
			return a, nil
		}
	}
	a, err := towards("192.0.2.1") // nobody's: only the choice of a source is asked for
	if err == nil {
		return a, nil
	}
	return any4(err)
}

func local(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, x := range addrs {
		if n, ok := x.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == a.Unmap() {
				return true
			}
		}
	}
	return false
}

// lookUp is how long a server's name is looked up: on a site without a link no resolver answers, and the board must go on.
const lookUp = 3 * time.Second

// towards is the source address that the kernel takes for a destination. No packet is sent, but to a resolver if it is a name.
func towards(host string) (netip.Addr, error) {
	c, err := net.DialTimeout("udp4", net.JoinHostPort(host, "9"), lookUp)
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// any4 is the first address of a link that is up, for a board that has no route out.
func any4(cause error) (netip.Addr, error) {
	links, err := net.Interfaces()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find the node's address: %w", err)
	}
	for _, l := range links {
		if l.Flags&(net.FlagUp|net.FlagLoopback) != net.FlagUp || strings.HasPrefix(l.Name, "br-") || strings.HasPrefix(l.Name, "docker") {
			continue
		}
		addrs, err := l.Addrs()
		if err != nil {
			continue
		}
		for _, x := range addrs {
			if n, ok := x.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap().Is4() && ip.Unmap().IsGlobalUnicast() {
					return ip.Unmap(), nil
				}
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("find the node's address: no link with an IPv4 address is up: %w", cause)
}

// conntrack forgets flows through the host's kernel.
type conntrack struct{ host *kernel.Host }

type match func(services.Flow) bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f match) MatchConntrackFlow(x *netlink.ConntrackFlow) bool {
	to, _ := netip.AddrFromSlice(x.Forward.DstIP)
	from, _ := netip.AddrFromSlice(x.Reverse.SrcIP)
	return f(services.Flow{Proto: x.Forward.Protocol, To: netip.AddrPortFrom(to.Unmap(), x.Forward.DstPort), From: netip.AddrPortFrom(from.Unmap(), x.Reverse.SrcPort)})
}

func (c conntrack) Forget(stale func(services.Flow) bool) error {
	_, err := c.host.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, match(stale))
	if errors.Is(err, unix.ENOENT) { // it ended by itself
		return nil
	}
	return err
}
