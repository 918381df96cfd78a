package services

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/mesh/catalog"
	"bramble.dev/mesh/nft"
)

const (
	labelProxyName = "service.kubernetes.io/service-proxy-name" // somebody else's to serve
	labelHeadless  = "service.kubernetes.io/headless"
)

// memory is what planning a Service remembers of last time.
type memory struct {
	slots map[string][]netip.AddrPort         // by list: which endpoint stands in which slot
	udp   map[netip.AddrPort][]netip.AddrPort // by front (a node port has no address): who may answer
}

// planner turns Services into pieces of the table.
type planner struct {
	cluster netip.Prefix // of pods
	here    place
	// common holds the chains that many Services lead to, so that they are not made for each anew.
	// There are as many as the largest Service has endpoints.
	common map[string]nft.Rule
}

// port is one port of a Service on its way into the table.
type port struct {
	planner
	*piece
	owner  owner
	svc    *corev1.Service
	number uint16
	proto  uint8
	name   string // ns/name/proto/port, in names of chains
	label  string // in comments
	affine time.Duration
	slots  func(list string, eps []netip.AddrPort) []netip.AddrPort
	udp    map[netip.AddrPort][]netip.AddrPort
}

// plan is what a Service wants in the table, given the slots of last time; it returns those of now.
func (pl planner) plan(e catalog.Entry, before memory) (*piece, memory) {
	p, now := newPiece(), memory{slots: map[string][]netip.AddrPort{}, udp: map[netip.AddrPort][]netip.AddrPort{}}
	svc := e.Service
	if !served(svc) {
		return p, now
	}
	own := owner{Namespace: svc.Namespace, Name: svc.Name}
	for _, sp := range svc.Spec.Ports {
		proto, ok := protocols[sp.Protocol]
		if !ok || sp.Port <= 0 || sp.Port > 65535 {
			continue
		}
		pt := &port{planner: pl, piece: p, owner: own, svc: svc, number: uint16(sp.Port), proto: proto, udp: now.udp}
		pt.name = fmt.Sprintf("%s/%s/%s/%d", svc.Namespace, svc.Name, nft.ProtoName(proto), sp.Port)
		pt.label = own.String()
		if sp.Name != "" {
			pt.label += ":" + sp.Name
		}
		if svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
			pt.affine = affinityTime(svc)
		}
		pt.slots = func(list string, eps []netip.AddrPort) []netip.AddrPort {
			key := pt.name + "/" + list
			now.slots[key] = slots(before.slots[key], eps)
			return now.slots[key]
		}
		pt.plan(sp, choose(sp, e.Slices, pl.here))
	}
	return p, now
}

func served(svc *corev1.Service) bool {
	if svc == nil || svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return false
	}
	_, other := svc.Labels[labelProxyName]
	_, headless := svc.Labels[labelHeadless]
	return !other && !headless
}

func affinityTime(svc *corev1.Service) time.Duration {
	const usual = 3 * time.Hour
	c := svc.Spec.SessionAffinityConfig
	if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil || *c.ClientIP.TimeoutSeconds <= 0 {
		return usual
	}
	return time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
}

func (p *port) plan(sp corev1.ServicePort, eps endpoints) {
	for _, e := range eps.all {
		if !p.cluster.Contains(e.Addr()) {
			p.add(outside, nft.Element{Key: nft.MakeKey(e.Addr(), p.proto, e.Port())})
		}
	}
	for _, e := range eps.local {
		if !p.cluster.Contains(e.Addr()) {
			p.add(outside, nft.Element{Key: nft.MakeKey(e.Addr(), p.proto, e.Port())})
		}
	}
	all := p.slots("all", eps.all)
	local := all[:0:0]
	internal := p.svc.Spec.InternalTrafficPolicy != nil && *p.svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	external := p.svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	if internal || external {
		local = p.slots("local", eps.local)
	}
	for _, a := range catalog.ClusterIPs(p.svc) {
		if !a.Is4() {
			continue
		}
		if internal {
			p.front(vipFront(a, p), nil, local, len(all) == 0)
		} else {
			p.front(vipFront(a, p), nil, all, true)
		}
	}
	outer := func(f front) {
		if external {
			p.front(f, all, local, len(all) == 0)
		} else {
			p.front(f, nil, all, true)
		}
	}
	for _, s := range p.svc.Spec.ExternalIPs {
		if a, err := netip.ParseAddr(s); err == nil && a.Is4() {
			outer(vipFront(a, p))
		}
	}
	for _, in := range p.svc.Status.LoadBalancer.Ingress {
		if p.svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
			break // what it had is not its own any more, and may be another's soon
		}
		if a, err := netip.ParseAddr(in.IP); err == nil && a.Is4() && (in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP) {
			f := vipFront(a, p)
			f.sources = prefixes(p.svc.Spec.LoadBalancerSourceRanges)
			f.guarded = len(p.svc.Spec.LoadBalancerSourceRanges) > 0
			outer(f)
		}
	}
	if sp.NodePort > 0 && sp.NodePort <= 65535 {
		outer(portFront(uint16(sp.NodePort), p))
	}
}

func prefixes(list []string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		if p, err := netip.ParsePrefix(strings.TrimSpace(s)); err == nil && p.Addr().Is4() { // the API takes spaces around it
			out = append(out, p.Masked())
		}
	}
	return out
}

// front is one way to reach a Service's port from.
type front struct {
	kind         string // "vip" or "port": how its maps are keyed
	at           netip.AddrPort
	key          nft.Key
	dispatch     nft.Set // of those that are served
	closed       nft.Set // of those that are not
	guarded      bool    // only sources may come in
	sources      []netip.Prefix
	keyTypes     []nft.Type
	keyFields    []nft.Field
	nameInChains string
}

func vipFront(a netip.Addr, p *port) front {
	return front{kind: "vip", at: netip.AddrPortFrom(a, p.number), key: nft.MakeKey(a, p.proto, p.number), dispatch: vips, closed: closedVIPs,
		keyTypes: vipKey, keyFields: nft.VIP, nameInChains: a.String() + "/" + nft.ProtoName(p.proto) + "/" + strconv.Itoa(int(p.number))}
}

func portFront(n uint16, p *port) front {
	return front{kind: "port", at: netip.AddrPortFrom(netip.Addr{}, n), key: nft.MakeKey(p.proto, n), dispatch: nodePorts, closed: closedPorts,
		keyTypes: portKey, keyFields: nft.Port, nameInChains: nft.ProtoName(p.proto) + "/" + strconv.Itoa(int(n))}
}
