package nft

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Field is a part of a packet that a key is made of.
type Field uint8

// The fields; each fills one register.
const (
	Saddr Field = iota
	Daddr
	L4Proto
	Dport
)

// VIP and Port are the keys of a virtual address and of a port on any address of the host.
var (
	VIP  = []Field{Daddr, L4Proto, Dport}
	Port = []Field{L4Proto, Dport}
)

// load fills registers from 0 on with the fields.
func (b *Builder) load(fields []Field) string {
	var words []string
	for i, f := range fields {
		switch f {
		case Saddr:
			b.needIPv4()
			b.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, offSaddr, 4, i)
			words = append(words, "ip saddr")
		case Daddr:
			b.needIPv4()
			b.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, offDaddr, 4, i)
			words = append(words, "ip daddr")
		case L4Proto:
			b.meta(unix.NFT_META_L4PROTO, i)
			words = append(words, "meta l4proto")
		case Dport:
			b.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, i)
			words = append(words, "th dport")
		}
	}
	return strings.Join(words, " . ")
}

// lookup finds the key from register 0 in a set; a dreg >= 0 takes the data, verdict the verdict.
func (b *Builder) lookup(set string, dreg int, verdict, not bool) {
	b.use(set)
	b.expr("lookup", func(w *buffer) {
		w.string(unix.NFTA_LOOKUP_SET, set)
		w.u32(unix.NFTA_LOOKUP_SREG, reg(0))
		switch {
		case verdict:
			w.u32(unix.NFTA_LOOKUP_DREG, unix.NFT_REG_VERDICT)
		case dreg >= 0:
			w.u32(unix.NFTA_LOOKUP_DREG, reg(dreg))
		}
		if not {
			w.u32(unix.NFTA_LOOKUP_FLAGS, unix.NFT_LOOKUP_F_INV)
		}
	})
}

// In matches packets whose fields are in the set.
func (b *Builder) In(set string, fields ...Field) *Builder {
	key := b.load(fields)
	b.lookup(set, -1, false, false)
	return b.say(key, "@"+set)
}

// NotIn matches packets whose fields are not in the set.
func (b *Builder) NotIn(set string, fields ...Field) *Builder {
	key := b.load(fields)
	b.lookup(set, -1, false, true)
	return b.say(key, "!= @"+set)
}

// Vmap goes where the map leads for the fields; a packet that is not in it goes on.
func (b *Builder) Vmap(set string, fields ...Field) Rule {
	key := b.load(fields)
	b.lookup(set, 0, true, false)
	return b.say(key, "vmap", "@"+set).done()
}

// Spread goes to one of the chains at random, each as likely as the others.
func (b *Builder) Spread(chains []string) Rule {
	b.expr("numgen", func(w *buffer) {
		w.u32(unix.NFTA_NG_DREG, reg(0))
		w.u32(unix.NFTA_NG_MODULUS, uint32(len(chains)))
		w.u32(unix.NFTA_NG_TYPE, unix.NFT_NG_RANDOM)
		w.u32(unix.NFTA_NG_OFFSET, 0)
	})
	var words []string
	for i, c := range chains {
		b.vmap = append(b.vmap, Element{Key: Key(binary.NativeEndian.AppendUint32(nil, uint32(i))), Value: Value{Goto: c}})
		words = append(words, strconv.Itoa(i)+" : goto "+c)
	}
	b.expr("lookup", func(w *buffer) {
		w.string(unix.NFTA_LOOKUP_SET, anonymous)
		w.u32(unix.NFTA_LOOKUP_SREG, reg(0))
		w.u32(unix.NFTA_LOOKUP_DREG, unix.NFT_REG_VERDICT)
		w.u32(unix.NFTA_LOOKUP_SET_ID, 0) // the last bytes of the rule: AddRule fills them in
	})
	return b.say("numgen random mod", strconv.Itoa(len(chains)), "vmap {", strings.Join(words, ", "), "}").done()
}

func (b *Builder) nat(typ uint32, port bool) {
	b.expr("nat", func(w *buffer) {
		w.u32(unix.NFTA_NAT_TYPE, typ)
		w.u32(unix.NFTA_NAT_FAMILY, unix.NFPROTO_IPV4)
		w.u32(unix.NFTA_NAT_REG_ADDR_MIN, reg(0))
		if port {
			w.u32(unix.NFTA_NAT_REG_PROTO_MIN, reg(1))
		}
	})
}

// DNATMap sends the packet to the address and port that the map has for the fields.
func (b *Builder) DNATMap(set string, fields ...Field) Rule {
	key := b.load(fields)
	b.lookup(set, 0, false, false)
	b.nat(unix.NFT_NAT_DNAT, true)
	return b.say("dnat ip to", key, "map", "@"+set).done()
}

// DNAT sends the packet to one address and port; say L4Proto first.
func (b *Builder) DNAT(to netip.AddrPort) Rule {
	a := to.Addr().As4()
	b.immediate(0, a[:])
	b.immediate(1, binary.BigEndian.AppendUint16(nil, to.Port()))
	b.nat(unix.NFT_NAT_DNAT, true)
	return b.say("dnat ip to", to.String()).done()
}

// SNAT gives the connection another source.
func (b *Builder) SNAT(a netip.Addr) Rule {
	v := a.As4()
	b.immediate(0, v[:])
	b.nat(unix.NFT_NAT_SNAT, false)
	return b.say("snat ip to", a.String()).done()
}

// Masquerade gives the connection the address of the interface that it leaves by. Source ports are
// taken at random, because two CPUs that pick the next free port at once lose a packet (KEP-less, but
// known from kube-proxy: kubernetes/kubernetes#78547).
func (b *Builder) Masquerade() Rule {
	const fullyRandom = 0x10
	b.expr("masq", func(w *buffer) { w.u32(unix.NFTA_MASQ_FLAGS, fullyRandom) })
	if !b.ip4 { // else nft prints a plain `masquerade` that it reads as IPv6 too
		b.say("meta nfproto ipv4")
	}
	return b.say("masquerade fully-random").done()
}

// Remember adds or refreshes the source address in a dynamic set.
func (b *Builder) Remember(set string) Rule {
	b.use(set)
	key := b.load([]Field{Saddr})
	b.expr("dynset", func(w *buffer) {
		w.string(unix.NFTA_DYNSET_SET_NAME, set)
		w.u32(unix.NFTA_DYNSET_OP, unix.NFT_DYNSET_OP_UPDATE)
		w.u32(unix.NFTA_DYNSET_SREG_KEY, reg(0))
	})
	return b.say("update @"+set, "{", key, "}").done()
}

func (b *Builder) verdict(code int32, chain string) {
	b.expr("immediate", func(w *buffer) {
		w.u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		data := w.begin(unix.NFTA_IMMEDIATE_DATA)
		verdict(w, code, chain)
		w.end(data)
	})
}

func verdict(w *buffer, code int32, chain string) {
	at := w.begin(unix.NFTA_DATA_VERDICT)
	w.u32(unix.NFTA_VERDICT_CODE, uint32(code))
	if chain != "" {
		w.string(unix.NFTA_VERDICT_CHAIN, chain)
	}
	w.end(at)
}

const (
	nfDrop   = 0
	nfAccept = 1
)

func (b *Builder) chain(word string, code int32, name string) Rule {
	b.to = map[string]bool{name: true}
	b.verdict(code, name)
	return b.say(word, name).done()
}

// Goto and the ones after it end a rule with what becomes of the packet.
func (b *Builder) Goto(chain string) Rule { return b.chain("goto", unix.NFT_GOTO, chain) }
func (b *Builder) Jump(chain string) Rule { return b.chain("jump", unix.NFT_JUMP, chain) }

func (b *Builder) Accept() Rule {
	b.verdict(nfAccept, "")
	return b.say("accept").done()
}

func (b *Builder) Drop() Rule {
	b.verdict(nfDrop, "")
	return b.say("drop").done()
}

// Return goes back to the chain that jumped here, behind the rule that did.
func (b *Builder) Return() Rule {
	b.verdict(unix.NFT_RETURN, "")
	return b.say("return").done()
}

// Notrack lets the packet pass without a tracked connection.
func (b *Builder) Notrack() Rule {
	b.expr("notrack", func(*buffer) {})
	return b.say("notrack").done()
}

func (b *Builder) reject(typ uint32, code uint8) {
	b.expr("reject", func(w *buffer) {
		w.u32(unix.NFTA_REJECT_TYPE, typ)
		w.u8(unix.NFTA_REJECT_ICMP_CODE, code)
	})
}

// Reset answers TCP with a reset; say L4Proto(TCP) first.
func (b *Builder) Reset() Rule {
	b.reject(unix.NFT_REJECT_TCP_RST, 0)
	return b.say("reject with tcp reset").done()
}

// Unreachable answers that there is nothing at the port.
func (b *Builder) Unreachable() Rule {
	b.reject(unix.NFT_REJECT_ICMPX_UNREACH, unix.NFT_REJECT_ICMPX_PORT_UNREACH)
	return b.say("reject").done()
}
