package services

import (
	"net/netip"

	"bramble.dev/mesh/nft"
)

// The maps that chains.go leads through.
var (
	vipKey  = []nft.Type{nft.Addr, nft.Proto, nft.Service}
	portKey = []nft.Type{nft.Proto, nft.Service}
	target  = []nft.Type{nft.Addr, nft.Service}

	vips        = nft.Set{Name: "vips", Key: vipKey, Data: []nft.Type{nft.Verdict}}
	nodePorts   = nft.Set{Name: "node-ports", Key: portKey, Data: []nft.Type{nft.Verdict}}
	closedVIPs  = nft.Set{Name: "closed-vips", Key: vipKey, Data: []nft.Type{nft.Verdict}}
	closedPorts = nft.Set{Name: "closed-ports", Key: portKey, Data: []nft.Type{nft.Verdict}}
	hostIPPorts = nft.Set{Name: "host-ip-ports", Key: vipKey, Data: target}
	hostPorts   = nft.Set{Name: "host-ports", Key: portKey, Data: target}
	// hairpin holds this node's pods twice each: a pod that reaches itself through a Service must see
	// another source, or it would answer itself past the translation.
	hairpin = nft.Set{Name: "hairpin", Key: []nft.Type{nft.Addr, nft.Addr}}
	// outside holds the endpoints that are no pods (a host's own address, the API server): the way
	// back from them leads here only when they see this node as the source.
	outside = nft.Set{Name: "outside", Key: vipKey}
	peers   = nft.Set{Name: "peers", Key: []nft.Type{nft.Addr}}
)

var loopback = netip.MustParsePrefix("127.0.0.0/8")

const (
	raw    = -300
	dstnat = -100
	filter = 0
	srcnat = 100
)

// base is what the table holds whatever Services there are.
//
// Sources are translated by these rules alone: what goes to other nodes' pods, or comes from this host, with
// an address that is not a pod's gets the bridge's address, because the other side answers only those
// through the tunnel; what a Service sends to an endpoint outside, and what pods send out of the
// cluster, gets the address of the interface that it leaves by. A client from outside that reaches a
// pod of this node through a node port keeps its address: the answer comes back through here anyway.
func base(c Config) *piece {
	p := newPiece()
	for _, s := range []nft.Set{vips, nodePorts, closedVIPs, closedPorts, hostIPPorts, hostPorts, hairpin, outside, peers} {
		p.set(s)
	}
	hook := func(name, typ string, h nft.Hook, priority int32, rules ...nft.Rule) {
		p.chains[name] = chain{base: &nft.Base{Type: typ, Hook: h, Priority: priority}, rules: rules}
	}
	// The tunnel takes packets from peers alone: whoever else could send one would be in the pods'
	// network. Its packets never have an answer by their ports, so to track them costs an entry for
	// each flow inside and tells nothing. What is inside passes tunnel-in too, as every packet does: one
	// short rule.
	hook("tunnel-in", "filter", nft.Prerouting, raw, nft.New().UDPPort(c.TunnelPort).VNI(c.VNI).Goto("tunnel"))
	p.chain("tunnel", nft.New().NotIn("peers", nft.Saddr).Drop(), nft.New().Notrack())
	hook("tunnel-out", "filter", nft.Output, raw, nft.New().UDPPort(c.TunnelPort).VNI(c.VNI).Notrack())
	hook("nat-prerouting", "nat", nft.Prerouting, dstnat, nft.New().Jump("services"))
	hook("nat-output", "nat", nft.Output, dstnat, nft.New().Jump("services"))
	p.chain("services",
		nft.New().Vmap("vips", nft.VIP...),
		nft.New().ToLocal().Goto("host"),
	)
	p.chain("host",
		nft.New().DNATMap("host-ip-ports", nft.VIP...),
		nft.New().DNATMap("host-ports", nft.Port...),
		nft.New().Vmap("node-ports", nft.Port...),
	)
	hook("nat-postrouting", "nat", nft.Postrouting, srcnat, sources(c)...)
	established := nft.New().State("established", "related", "untracked").Accept()
	// route_localnet lets 127.0.0.1 reach node ports, and would let pods reach what listens on the
	// host's loopback: CVE-2020-8558.
	hook("input", "filter", nft.Input, filter,
		established,
		nft.New().Iif(c.Bridge).Daddr(loopback).Jump("loopback"),
		nft.New().Iif(c.Tunnel).Daddr(loopback).Drop(),
		nft.New().Vmap("closed-vips", nft.VIP...),
		nft.New().Vmap("closed-ports", nft.Port...),
	)
	p.chain("loopback", nft.New().DNATed().Accept(), nft.New().Drop())
	// An answer that conntrack does not know would leave untranslated, and its receiver would reset a
	// healthy connection: kubernetes/kubernetes#74839.
	hook("forward", "filter", nft.Forward, filter,
		established,
		nft.New().Iif(c.Bridge).State("invalid").Drop(),
		nft.New().Vmap("closed-vips", nft.VIP...),
		nft.New().Daddr(c.ServiceIPs).Goto("refuse"),
	)
	hook("output", "filter", nft.Output, filter,
		established,
		nft.New().Vmap("closed-vips", nft.VIP...),
		nft.New().ToLocal().Vmap("closed-ports", nft.Port...),
		nft.New().Daddr(c.ServiceIPs).Goto("refuse"),
	)
	p.chain("refuse", nft.New().L4Proto(nft.TCP).Reset(), nft.New().Unreachable())
	resolver(p, c)
	api(p, c)
	return p
}

func sources(c Config) []nft.Rule {
	away := nft.New().Oif(c.Tunnel)
	if c.Direct {
		away = nft.New().Daddr(c.Cluster).OifNot(c.Bridge)
	}
	return []nft.Rule{
		nft.New().DNATed().In("hairpin", nft.Saddr, nft.Daddr).SNAT(c.Gateway),
		away.SaddrNot(c.Cluster).SNAT(c.Gateway),
		nft.New().Oif(c.Bridge).SaddrNot(c.Cluster).FromLocal().SNAT(c.Gateway),
		nft.New().DNATed().In("outside", nft.VIP...).Masquerade(),
		nft.New().Saddr(c.PodCIDR).DaddrNot(c.Cluster).OifNot(c.Bridge).Masquerade(),
	}
}

// resolver sends the cluster's DNS address, and port 53 of the bridge where something else holds that,
// to this node's own resolver. The name service of a node that is cut off is the node.
func resolver(p *piece, c Config) {
	if !c.Resolver.IsValid() {
		return
	}
	p.chain("dns",
		nft.New().L4Proto(nft.UDP).DNAT(c.Resolver),
		nft.New().L4Proto(nft.TCP).DNAT(c.Resolver),
	)
	for _, a := range []netip.Addr{c.DNS, c.Gateway} {
		if !a.Is4() || netip.AddrPortFrom(a, 53) == c.Resolver {
			continue
		}
		for _, proto := range []uint8{nft.UDP, nft.TCP} {
			p.add(vips, nft.Element{Key: nft.MakeKey(a, proto, uint16(53)), Value: nft.Value{Goto: "dns"}, Comment: "this node's resolver"})
		}
	}
}

// api sends default/kubernetes, by its well-known address, to the agent's own proxy.
func api(p *piece, c Config) {
	if !c.API.IsValid() {
		return
	}
	p.chain("api", nft.New().L4Proto(nft.TCP).DNAT(c.API))
	p.add(vips, nft.Element{Key: nft.MakeKey(c.ServiceIPs.Masked().Addr().Next(), uint8(nft.TCP), uint16(443)), Value: nft.Value{Goto: "api"}, Comment: "default/kubernetes"})
}

// tunnelPeers is who may send through the tunnel.
func tunnelPeers(list []netip.Addr) *piece {
	p := newPiece()
	for _, a := range list {
		p.add(peers, nft.Element{Key: nft.MakeKey(a)})
	}
	return p
}

// pods is what the attached pods need.
func pods(list []Pod) *piece {
	p := newPiece()
	for _, pod := range list {
		p.add(hairpin, nft.Element{Key: nft.MakeKey(pod.IP, pod.IP)})
		for _, hp := range pod.Ports {
			proto, ok := protocols[hp.Protocol]
			if !ok || hp.HostPort == 0 {
				continue
			}
			v := nft.Value{Data: nft.MakeKey(pod.IP, hp.Port)}
			if hp.HostIP.Is4() && !hp.HostIP.IsUnspecified() {
				p.add(hostIPPorts, nft.Element{Key: nft.MakeKey(hp.HostIP, proto, hp.HostPort), Value: v})
			} else {
				p.add(hostPorts, nft.Element{Key: nft.MakeKey(proto, hp.HostPort), Value: v})
			}
		}
	}
	return p
}
