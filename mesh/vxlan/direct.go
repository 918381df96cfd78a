package vxlan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"bramble.dev/mesh/internal/kernel"
)

// Link is the link with the node's own address, which peers on it are reached by without the tunnel when
// that is asked for.
type Link struct {
	Index  int
	Subnet netip.Prefix // invalid: the tunnel leads to everybody
}

// hop is a direct route: over which link, by which host.
type hop struct {
	link int
	Route
}

// near says whether a peer is on the node's own link. Two sites may well use the same addresses.
func near(c Config, p Peer) bool {
	return c.Link.Subnet.IsValid() && c.Link.Subnet.Contains(p.IP) && p.Site == c.Site
}

// direct are the routes to the pods of peers on the node's own link.
func direct(c Config) map[netip.Prefix]hop {
	out := map[netip.Prefix]hop{}
	for _, p := range c.Peers {
		if remote(c, p) && near(c, p) {
			out[p.PodCIDR.Masked()] = hop{c.Link.Index, Route{Via: p.IP, Source: c.Gateway}}
		}
	}
	return out
}

// hops lists the direct routes that the kernel has. They are known by protocol and metric.
func (t *Tunnel) hops() (map[netip.Prefix]hop, error) {
	routes, err := t.host.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: kernel.Protocol, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list direct routes: %w", err)
	}
	out := map[netip.Prefix]hop{}
	for _, r := range routes {
		if r.Dst == nil || r.Priority != t.Metric || t.Metric == 0 {
			continue
		}
		ones, _ := r.Dst.Mask.Size()
		out[netip.PrefixFrom(address(r.Dst.IP), ones)] = hop{r.LinkIndex, Route{Via: address(r.Gw), Source: address(r.Src)}}
	}
	return out, nil
}

// setHops makes the direct routes that are wanted, and removes the others when told to: not before the
// tunnel leads where they led.
func (t *Tunnel) setHops(have, want map[netip.Prefix]hop, remove bool) error {
	var errs []error
	for _, p := range sorted(want, comparePrefix) {
		if h, ok := have[p]; !remove && (!ok || h != want[p]) {
			if err := t.host.RouteReplace(t.route(p, want[p])); err != nil {
				errs = append(errs, fmt.Errorf("set the direct route to %s via %s: %w", p, want[p].Via, err))
			}
		}
	}
	for _, p := range sorted(have, comparePrefix) {
		if _, ok := want[p]; remove && !ok {
			if err := t.host.RouteDel(t.route(p, have[p])); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("remove the direct route to %s via %s: %w", p, have[p].Via, err))
			}
		}
	}
	return errors.Join(errs...)
}

func (t *Tunnel) route(p netip.Prefix, h hop) *netlink.Route {
	r := &netlink.Route{
		LinkIndex: h.link, Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)},
		Gw: h.Via.AsSlice(), Protocol: kernel.Protocol, Priority: t.Metric,
	}
	if h.Source.IsValid() {
		r.Src = h.Source.AsSlice()
	}
	return r
}
