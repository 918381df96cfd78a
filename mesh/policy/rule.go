package policy

import (
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"bramble.dev/mesh/nft"
)

// direction is one direction of a policy on its way into the table.
type direction struct {
	*planner
	out       bool
	namespace string
	selected  *metav1.LabelSelector // the policy's own pods
	chainName string
	rules     []nft.Rule
}

// match is one peer: what a rule for it begins with, and which addresses of it are not meant.
type match struct {
	begin  func() *nft.Builder
	except []netip.Prefix
}

// inOneRule is how many exceptions stand in a rule: the kernel takes 128 expressions, and each needs up to three. A rule that it
// refused would leave the whole node with the policies of before.
const inOneRule = 16

// add adds rules for a peer.
func (d *direction) add(m match, rules ...func(*nft.Builder) nft.Rule) {
	is, not := (*nft.Builder).Saddr, (*nft.Builder).SaddrNot
	if d.out {
		is, not = (*nft.Builder).Daddr, (*nft.Builder).DaddrNot
	}
	if len(m.except) <= inOneRule {
		for _, rule := range rules {
			b := m.begin()
			for _, p := range m.except {
				not(b, p)
			}
			d.rules = append(d.rules, rule(b))
		}
		return
	}
	name := d.chainName + "/except-" + strconv.Itoa(len(d.rules))
	var inside []nft.Rule
	for _, p := range m.except {
		inside = append(inside, is(nft.New(), p).Return())
	}
	for _, rule := range rules {
		inside = append(inside, rule(nft.New()))
	}
	d.chain(name, inside...)
	d.rules = append(d.rules, m.begin().Jump(name))
}

// rule adds what one rule of the policy lets through: from or to any of the peers, at any of the
// ports. No peers are all, no ports are all protocols; a peer or port that means nothing lets nothing
// through.
func (d *direction) rule(i int, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
	matches := d.matches(peers)
	if len(ports) == 0 {
		for _, m := range matches {
			d.add(m, d.pass)
		}
		return
	}
	d.numbers(i, matches, ports)
	for _, port := range ports {
		if port.Port != nil && port.Port.Type == intstr.String {
			d.named(peers, matches, port)
		}
	}
}

func (d *direction) pass(b *nft.Builder) nft.Rule {
	if d.out {
		return b.Goto(accepted)
	}
	return b.Accept()
}

func (d *direction) matches(peers []networkingv1.NetworkPolicyPeer) []match {
	if len(peers) == 0 {
		return []match{{begin: nft.New}}
	}
	var out []match
	for _, peer := range peers {
		if peer.IPBlock != nil {
			if m, ok := d.block(peer.IPBlock); ok {
				out = append(out, m)
			}
			continue
		}
		set := d.addresses(d.group(d.namespace, peer))
		field := nft.Saddr
		if d.out {
			field = nft.Daddr
		}
		out = append(out, match{begin: func() *nft.Builder { return nft.New().In(set, field) }})
	}
	return out
}

// block matches a range of addresses, if it is one of IPv4.
func (d *direction) block(b *networkingv1.IPBlock) (m match, ok bool) {
	in, err := netip.ParsePrefix(b.CIDR)
	if err != nil || !in.Addr().Is4() {
		return m, false
	}
	for _, s := range b.Except {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return m, false // to let less through than was meant is the safer mistake
		}
		if p.Addr().Is4() {
			m.except = append(m.except, p)
		}
	}
	m.begin = func() *nft.Builder {
		switch {
		case in.Bits() == 0:
			return nft.New()
		case d.out:
			return nft.New().Daddr(in)
		}
		return nft.New().Saddr(in)
	}
	return m, true
}

// numbers adds the rules for ports that are numbers. Where there are several peers and several ports
// they get a chain, so that there are as many rules as both together.
func (d *direction) numbers(i int, matches []match, ports []networkingv1.NetworkPolicyPort) {
	var tests []func(*nft.Builder) *nft.Builder
	for _, port := range ports {
		proto, ok := protocol(port.Protocol)
		if !ok || port.Port != nil && port.Port.Type != intstr.Int {
			continue
		}
		first, last := 0, 65535
		if port.Port != nil {
			first, last = port.Port.IntValue(), port.Port.IntValue()
			if port.EndPort != nil {
				last = int(*port.EndPort)
			}
		}
		if first < 0 || last > 65535 || first > last {
			continue
		}
		tests = append(tests, func(b *nft.Builder) *nft.Builder {
			if first == 0 && last == 65535 {
				return b.L4Proto(proto)
			}
			return b.Ports(proto, uint16(first), uint16(last))
		})
	}
	if len(tests) > 1 && len(matches) > 1 {
		name := d.chainName + "/" + strconv.Itoa(i)
		var rules []nft.Rule
		for _, t := range tests {
			rules = append(rules, d.pass(t(nft.New())))
		}
		d.chain(name, rules...)
		for _, m := range matches {
			d.add(m, func(b *nft.Builder) nft.Rule { return b.Jump(name) })
		}
		return
	}
	for _, m := range matches {
		for _, t := range tests {
			d.add(m, func(b *nft.Builder) nft.Rule { return d.pass(t(b)) })
		}
	}
}

// named adds the rules for a port with a name: one of the policy's own pods for what comes in, one of
// the peers' for what goes out. Only pods have named ports, so to a range of addresses it lets
// nothing through.
func (d *direction) named(peers []networkingv1.NetworkPolicyPeer, matches []match, port networkingv1.NetworkPolicyPort) {
	proto, ok := protocol(port.Protocol)
	if !ok {
		return
	}
	name := port.Port.StrVal
	if !d.out {
		own := d.ports(d.group(d.namespace, networkingv1.NetworkPolicyPeer{PodSelector: d.selected}), name, proto)
		for _, m := range matches {
			d.add(m, func(b *nft.Builder) nft.Rule { return d.pass(b.In(own, nft.VIP...)) })
		}
		return
	}
	if len(peers) == 0 { // all pods
		peers = []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{}}}
	}
	for _, peer := range peers {
		if peer.IPBlock == nil {
			set := d.ports(d.group(d.namespace, peer), name, proto)
			d.rules = append(d.rules, d.pass(nft.New().In(set, nft.VIP...)))
		}
	}
}

func protocol(p *corev1.Protocol) (uint8, bool) {
	if p == nil {
		return nft.TCP, true
	}
	switch *p {
	case corev1.ProtocolTCP, "":
		return nft.TCP, true
	case corev1.ProtocolUDP:
		return nft.UDP, true
	case corev1.ProtocolSCTP:
		return nft.SCTP, true
	}
	return 0, false
}
