package nodeipam

import (
	"net/netip"
	"slices"
)

// subnetBits is the size of a node's subnet: 256 addresses, or 2^64 of IPv6. A
// smaller cluster network is one subnet.
func subnetBits(cluster netip.Prefix) int {
	if cluster.Addr().Is4() {
		return max(24, cluster.Bits())
	}
	return max(64, cluster.Bits())
}

// next finds the lowest subnet of the cluster's network that overlaps none that
// is taken.
func next(cluster netip.Prefix, taken []netip.Prefix) (netip.Prefix, bool) {
	bits := subnetBits(cluster)
	// All but those that somebody chose by hand are of one size, and are looked up: with a thousand nodes, each of a thousand
	// candidates must not be compared with each of a thousand subnets.
	usual, others := map[netip.Prefix]bool{}, []netip.Prefix(nil)
	for _, p := range taken {
		if p.Bits() == bits {
			usual[p.Masked()] = true
		} else {
			others = append(others, p)
		}
	}
	candidate := netip.PrefixFrom(cluster.Masked().Addr(), bits)
	for cluster.Contains(candidate.Addr()) {
		if !usual[candidate] && !slices.ContainsFunc(others, candidate.Overlaps) {
			return candidate, true
		}
		addr, ok := after(candidate)
		if !ok {
			break
		}
		candidate = netip.PrefixFrom(addr, bits)
	}
	return netip.Prefix{}, false
}

// after is the first address behind a subnet.
func after(p netip.Prefix) (netip.Addr, bool) {
	b := p.Addr().AsSlice()
	step := byte(1) << ((8 - p.Bits()%8) % 8)
	for i := (p.Bits() - 1) / 8; i >= 0; i-- {
		b[i] += step
		if b[i] >= step {
			addr, ok := netip.AddrFromSlice(b)
			return addr, ok
		}
		step = 1
	}
	return netip.Addr{}, false
}
