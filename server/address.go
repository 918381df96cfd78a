package server

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// advertised is the address under which other machines reach a listener: its own, or, where it listens on all, the
// first global unicast address of this machine, and the loopback address where there is none.
func advertised(listen netip.AddrPort) (netip.Addr, error) {
	if a := listen.Addr(); a.IsValid() && !a.IsUnspecified() {
		return a, nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("find this machine's address: %w", err)
	}
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap().Is4() && ip.Unmap().IsGlobalUnicast() {
			return ip.Unmap(), nil
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
}

// dnsAddress is the cluster's DNS service: the tenth address of the service range, as everywhere in the field.
func dnsAddress(services netip.Prefix) (netip.Addr, error) {
	a := services.Masked().Addr()
	for range 10 {
		a = a.Next()
	}
	if !services.Contains(a) {
		return a, errors.New("the service range holds fewer than ten addresses")
	}
	return a, nil
}
