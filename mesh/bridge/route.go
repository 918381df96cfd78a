package bridge

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"bramble.dev/mesh/internal/kernel"
)

// routes are those that are not a link's own. This host's packets to Services go onto the bridge,
// because where they go in truth is found out only after a route was chosen, and a board whose uplink
// is down has no other. What goes to a pod that no route leads to (its node is gone, or at another
// site) is refused at once and not sent to the default gateway.
func routes(l netlink.Link, c Config) []netlink.Route {
	return []netlink.Route{
		{LinkIndex: l.Attrs().Index, Dst: ipNet(c.Services.Masked()), Src: c.Gateway.Addr().AsSlice(), Scope: netlink.SCOPE_LINK},
		{Dst: ipNet(c.Cluster.Masked()), Type: unix.RTN_UNREACHABLE},
	}
}

// setRoutes makes our routes those that are wanted. They are known by protocol and metric.
func (b *Bridge) setRoutes(wanted []netlink.Route) error {
	have, err := b.host.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: kernel.Protocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list the routes of %s: %w", b.Name, err)
	}
	have = slices.DeleteFunc(have, func(r netlink.Route) bool { return r.Priority != b.Metric }) // others' and the tunnel's
	var errs []error
	for _, w := range wanted {
		if slices.ContainsFunc(have, func(h netlink.Route) bool { return same(h, w) }) {
			continue
		}
		w.Protocol, w.Priority = kernel.Protocol, b.Metric
		if err := b.host.RouteReplace(&w); err != nil {
			errs = append(errs, fmt.Errorf("set the route to %s: %w", w.Dst, err))
		}
	}
	for _, h := range have {
		if slices.ContainsFunc(wanted, func(w netlink.Route) bool { return same(h, w) }) {
			continue
		}
		if err := b.host.RouteDel(&h); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove the route to %s: %w", h.Dst, err))
		}
	}
	return errors.Join(errs...)
}

func same(have, want netlink.Route) bool {
	unreachable := func(r netlink.Route) bool { return r.Type == unix.RTN_UNREACHABLE }
	return have.Dst != nil && have.Dst.String() == want.Dst.String() && unreachable(have) == unreachable(want) &&
		(unreachable(want) || have.LinkIndex == want.LinkIndex && have.Src.Equal(want.Src))
}
