package vxlan

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"bramble.dev/mesh/internal/kernel"
)

// observe reads what the kernel has for the device.
func (t *Tunnel) observe(l netlink.Link) (State, error) {
	s := State{Routes: map[netip.Prefix]Route{}, Neighbours: map[netip.Addr]string{}, Forwarding: map[string]netip.Addr{}}
	index := l.Attrs().Index
	routes, err := t.host.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: index, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	if err != nil {
		return s, fmt.Errorf("list routes of %s: %w", t.Name, err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.Protocol != kernel.Protocol {
			continue
		}
		ones, _ := r.Dst.Mask.Size()
		s.Routes[netip.PrefixFrom(address(r.Dst.IP), ones)] = Route{Via: address(r.Gw), Source: address(r.Src)}
	}
	neighbours, err := t.host.NeighList(index, netlink.FAMILY_V4)
	if err != nil {
		return s, fmt.Errorf("list neighbours of %s: %w", t.Name, err)
	}
	for _, n := range neighbours {
		if n.State&netlink.NUD_PERMANENT != 0 {
			s.Neighbours[address(n.IP)] = n.HardwareAddr.String()
		}
	}
	entries, err := t.host.NeighList(index, unix.AF_BRIDGE)
	if err != nil {
		return s, fmt.Errorf("list forwarding entries of %s: %w", t.Name, err)
	}
	for _, n := range entries {
		if len(n.HardwareAddr) == 6 && n.IP != nil {
			s.Forwarding[n.HardwareAddr.String()] = address(n.IP)
		}
	}
	return s, nil
}

func address(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// apply does one step. To remove what is not there is no error.
func (t *Tunnel) apply(l netlink.Link, st Step) error {
	err := t.change(l.Attrs().Index, st)
	if st.Remove && (err == unix.ENOENT || err == unix.ESRCH) {
		return nil
	}
	return err
}

func (t *Tunnel) change(index int, st Step) error {
	if st.Prefix.IsValid() {
		r := &netlink.Route{
			LinkIndex: index, Dst: &net.IPNet{IP: st.Prefix.Addr().AsSlice(), Mask: net.CIDRMask(st.Prefix.Bits(), 32)},
			Gw: st.Route.Via.AsSlice(), Flags: int(netlink.FLAG_ONLINK), Protocol: kernel.Protocol,
		}
		if st.Route.Source.IsValid() {
			r.Src = st.Route.Source.AsSlice()
		}
		if st.Remove {
			return t.host.RouteDel(r)
		}
		return t.host.RouteReplace(r)
	}
	n := &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT}
	mac, err := net.ParseMAC(st.MAC)
	if err != nil {
		return err
	}
	n.HardwareAddr = mac
	if st.Gateway.IsValid() {
		n.Family, n.IP = netlink.FAMILY_V4, st.Gateway.AsSlice()
	} else {
		n.Family, n.Flags, n.IP = unix.AF_BRIDGE, netlink.NTF_SELF, st.Host.AsSlice()
	}
	if st.Remove {
		return t.host.NeighDel(n)
	}
	return t.host.NeighSet(n)
}
