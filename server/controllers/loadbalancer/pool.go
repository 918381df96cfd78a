package loadbalancer

import (
	"fmt"
	"net/netip"
	"strings"
)

// addressRange is from its first address to its last, both included.
type addressRange struct{ first, last netip.Addr }

// Pool is the addresses that may be given away. Without any, the nodes' own are told.
type Pool []addressRange

// ParsePool reads ranges (192.168.1.240-192.168.1.250), networks (192.168.1.240/28) and single addresses. The first and the last
// address of a network are left out: they are no host's.
func ParsePool(list []string) (Pool, error) {
	var pool Pool
	for _, text := range list {
		r, err := parseRange(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		for _, other := range pool {
			if r.first.Compare(other.last) <= 0 && other.first.Compare(r.last) <= 0 {
				return nil, fmt.Errorf("%q overlaps %s", text, other)
			}
		}
		pool = append(pool, r)
	}
	return pool, nil
}

func parseRange(text string) (r addressRange, err error) {
	bad := fmt.Errorf("%q: want a range such as 192.168.1.240-192.168.1.250, or a network such as 192.168.1.240/28, of IPv4", text)
	if strings.Contains(text, "/") {
		p, err := netip.ParsePrefix(text)
		if err != nil || !p.Addr().Is4() {
			return r, bad
		}
		p = p.Masked()
		r.first, r.last = p.Addr(), lastOf(p)
		if p.Bits() <= 30 {
			r.first, r.last = r.first.Next(), r.last.Prev()
		}
		return r, nil
	}
	first, last, ranged := strings.Cut(text, "-")
	if !ranged {
		last = first
	}
	if r.first, err = netip.ParseAddr(strings.TrimSpace(first)); err != nil {
		return r, bad
	}
	if r.last, err = netip.ParseAddr(strings.TrimSpace(last)); err != nil || !r.first.Is4() || !r.last.Is4() || r.last.Less(r.first) {
		return r, bad
	}
	return r, nil
}

func lastOf(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(a)
}

func (r addressRange) String() string { return r.first.String() + "-" + r.last.String() }

func (p Pool) String() string {
	texts := make([]string, len(p))
	for i, r := range p {
		texts[i] = r.String()
	}
	return strings.Join(texts, ", ")
}

// Overlaps says whether an address of a network is in the pool, which has none of IPv6.
func (p Pool) Overlaps(n netip.Prefix) bool {
	if !n.Addr().Is4() {
		return false
	}
	first, last := n.Masked().Addr(), lastOf(n.Masked())
	for _, r := range p {
		if r.first.Compare(last) <= 0 && first.Compare(r.last) <= 0 {
			return true
		}
	}
	return false
}

func (p Pool) contains(a netip.Addr) bool {
	for _, r := range p {
		if r.first.Compare(a) <= 0 && a.Compare(r.last) <= 0 {
			return true
		}
	}
	return false
}

// next is the first address that nobody has.
func (p Pool) next(taken map[netip.Addr]string) (netip.Addr, bool) {
	for _, r := range p {
		for a := r.first; a.IsValid() && a.Compare(r.last) <= 0; a = a.Next() {
			if _, ok := taken[a]; !ok {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}
