package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Rule is a rule in both its forms. The zero value is not useful; see New.
type Rule struct {
	Text string
	data []byte          // the kernel's list of expressions
	size int             // how many they are
	vmap []Element       // of an anonymous verdict map keyed by a number, when the rule has one
	uses map[string]bool // names of sets that it reads or writes
	to   map[string]bool // names of chains that it goes to
}

// Chains are the names of the chains that the rule leads to.
func (r Rule) Chains() []string { return keys(r.to, r.vmap) }

// Sets are the names of the sets that the rule reads or writes.
func (r Rule) Sets() []string { return keys(r.uses, nil) }

func keys(m map[string]bool, vmap []Element) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	for _, e := range vmap {
		if e.Value.Goto != "" {
			out = append(out, e.Value.Goto)
		}
	}
	return out
}

// Size is how many expressions the rule is made of. The kernel takes 128.
func (r Rule) Size() int { return r.size }

// Builder puts a rule together from left to right.
type Builder struct {
	words []string
	buf   buffer
	size  int
	ip4   bool // "this is IPv4" has been said: the kernel needs it before a look into the header
	vmap  []Element
	uses  map[string]bool
	to    map[string]bool
}

// New begins a rule.
func New() *Builder { return &Builder{} }

func (b *Builder) done() Rule {
	return Rule{Text: strings.Join(b.words, " "), data: b.buf, size: b.size, vmap: b.vmap, uses: b.uses, to: b.to}
}

func (b *Builder) say(words ...string) *Builder {
	b.words = append(b.words, words...)
	return b
}

func (b *Builder) use(set string) {
	if b.uses == nil {
		b.uses = map[string]bool{}
	}
	b.uses[set] = true
}

// reg is the n-th 32-bit register.
func reg(n int) uint32 { return uint32(unix.NFT_REG32_00 + n) }

// expr appends one expression: a name and its attributes.
func (b *Builder) expr(name string, attrs func(*buffer)) {
	b.size++
	at := b.buf.begin(unix.NFTA_LIST_ELEM)
	b.buf.string(unix.NFTA_EXPR_NAME, name)
	data := b.buf.begin(unix.NFTA_EXPR_DATA)
	attrs(&b.buf)
	b.buf.end(data)
	b.buf.end(at)
}

func (b *Builder) meta(key uint32, dreg int) {
	b.expr("meta", func(w *buffer) {
		w.u32(unix.NFTA_META_KEY, key)
		w.u32(unix.NFTA_META_DREG, reg(dreg))
	})
}

func (b *Builder) ct(key uint32, dreg int) {
	b.expr("ct", func(w *buffer) {
		w.u32(unix.NFTA_CT_KEY, key)
		w.u32(unix.NFTA_CT_DREG, reg(dreg))
	})
}

func (b *Builder) payload(base, offset, n uint32, dreg int) {
	b.expr("payload", func(w *buffer) {
		w.u32(unix.NFTA_PAYLOAD_DREG, reg(dreg))
		w.u32(unix.NFTA_PAYLOAD_BASE, base)
		w.u32(unix.NFTA_PAYLOAD_OFFSET, offset)
		w.u32(unix.NFTA_PAYLOAD_LEN, n)
	})
}

func value(w *buffer, typ uint16, v []byte) {
	at := w.begin(typ)
	w.bytes(unix.NFTA_DATA_VALUE, v)
	w.end(at)
}

func (b *Builder) cmp(not bool, sreg int, v []byte) {
	op := uint32(unix.NFT_CMP_EQ)
	if not {
		op = unix.NFT_CMP_NEQ
	}
	b.compare(op, sreg, v)
}

func (b *Builder) compare(op uint32, sreg int, v []byte) {
	b.expr("cmp", func(w *buffer) {
		w.u32(unix.NFTA_CMP_SREG, reg(sreg))
		w.u32(unix.NFTA_CMP_OP, op)
		value(w, unix.NFTA_CMP_DATA, v)
	})
}

func (b *Builder) mask(r int, mask uint32) {
	b.expr("bitwise", func(w *buffer) {
		w.u32(unix.NFTA_BITWISE_SREG, reg(r))
		w.u32(unix.NFTA_BITWISE_DREG, reg(r))
		w.u32(unix.NFTA_BITWISE_LEN, 4)
		value(w, unix.NFTA_BITWISE_MASK, binary.NativeEndian.AppendUint32(nil, mask))
		value(w, unix.NFTA_BITWISE_XOR, make([]byte, 4))
	})
}

func (b *Builder) immediate(dreg int, v []byte) {
	b.expr("immediate", func(w *buffer) {
		w.u32(unix.NFTA_IMMEDIATE_DREG, reg(dreg))
		value(w, unix.NFTA_IMMEDIATE_DATA, v)
	})
}

func (b *Builder) needIPv4() {
	if !b.ip4 {
		b.ip4 = true
		b.meta(unix.NFT_META_NFPROTO, 0)
		b.cmp(false, 0, []byte{unix.NFPROTO_IPV4})
	}
}

func ifname(name string) []byte {
	v := make([]byte, unix.IFNAMSIZ)
	copy(v, name)
	return v
}

func (b *Builder) iface(word string, key uint32, not bool, name string) *Builder {
	b.meta(key, 0)
	b.cmp(not, 0, ifname(name))
	if not {
		word += " !="
	}
	return b.say(word, strconv.Quote(name))
}

// Iif and the two after it compare the interface that a packet came in or leaves by.
func (b *Builder) Iif(name string) *Builder {
	return b.iface("iifname", unix.NFT_META_IIFNAME, false, name)
}
func (b *Builder) Oif(name string) *Builder {
	return b.iface("oifname", unix.NFT_META_OIFNAME, false, name)
}
func (b *Builder) OifNot(name string) *Builder {
	return b.iface("oifname", unix.NFT_META_OIFNAME, true, name)
}

const (
	offSaddr = 12
	offDaddr = 16
)

func (b *Builder) addr(word string, offset uint32, not bool, p netip.Prefix) *Builder {
	b.needIPv4()
	p = p.Masked()
	a := p.Addr().As4()
	v := a[:]
	if p.Bits() > 0 && p.Bits()%8 == 0 { // as nft does it, which reads only this back as a prefix
		v = a[:p.Bits()/8]
	}
	b.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, offset, uint32(len(v)), 0)
	if p.Bits()%8 != 0 || p.Bits() == 0 {
		m := binary.BigEndian.AppendUint32(nil, uint32(uint64(0xffffffff)<<(32-p.Bits())))
		b.mask(0, binary.NativeEndian.Uint32(m))
	}
	b.cmp(not, 0, v)
	if not {
		word += " !="
	}
	if p.IsSingleIP() {
		return b.say(word, p.Addr().String())
	}
	return b.say(word, p.String())
}

// Saddr and the three after it compare a packet's addresses.
func (b *Builder) Saddr(p netip.Prefix) *Builder    { return b.addr("ip saddr", offSaddr, false, p) }
func (b *Builder) SaddrNot(p netip.Prefix) *Builder { return b.addr("ip saddr", offSaddr, true, p) }
func (b *Builder) Daddr(p netip.Prefix) *Builder    { return b.addr("ip daddr", offDaddr, false, p) }
func (b *Builder) DaddrNot(p netip.Prefix) *Builder { return b.addr("ip daddr", offDaddr, true, p) }

// L4Proto compares the protocol above IP.
func (b *Builder) L4Proto(p uint8) *Builder {
	b.meta(unix.NFT_META_L4PROTO, 0)
	b.cmp(false, 0, []byte{p})
	return b.say("meta l4proto", ProtoName(p))
}

// Dport compares the destination port of TCP, UDP or SCTP; say L4Proto first.
func (b *Builder) Dport(p uint16) *Builder {
	b.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, 0)
	b.cmp(false, 0, binary.BigEndian.AppendUint16(nil, p))
	return b.say("th dport", strconv.Itoa(int(p)))
}

// UDPPort compares the destination port of UDP.
func (b *Builder) UDPPort(p uint16) *Builder {
	b.L4Proto(UDP).Dport(p)
	b.words = b.words[:len(b.words)-4]
	return b.say("udp dport", strconv.Itoa(int(p)))
}

// Ports compares the destination port of a protocol that has ports with a range.
func (b *Builder) Ports(proto uint8, first, last uint16) *Builder {
	b.L4Proto(proto)
	b.words = b.words[:len(b.words)-2] // nft says it in one with the port
	b.say(ProtoName(proto), "dport")
	b.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, 0)
	if first == last {
		b.cmp(false, 0, binary.BigEndian.AppendUint16(nil, first))
		return b.say(strconv.Itoa(int(first)))
	}
	b.compare(unix.NFT_CMP_GTE, 0, binary.BigEndian.AppendUint16(nil, first))
	b.compare(unix.NFT_CMP_LTE, 0, binary.BigEndian.AppendUint16(nil, last))
	return b.say(fmt.Sprintf("%d-%d", first, last))
}

// VNI compares the network identifier of a VXLAN packet; say UDPPort first.
func (b *Builder) VNI(n uint32) *Builder {
	b.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 12, 3, 0) // behind UDP's header and VXLAN's flags
	b.cmp(false, 0, []byte{byte(n >> 16), byte(n >> 8), byte(n)})
	return b.say("@th,96,24", "0x"+strconv.FormatUint(uint64(n), 16))
}

// State matches any of the connection states, by their names.
func (b *Builder) State(names ...string) *Builder {
	bits := map[string]uint32{"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
	var m uint32
	for _, n := range names {
		m |= bits[n]
	}
	b.ct(unix.NFT_CT_STATE, 0)
	b.mask(0, m)
	b.cmp(true, 0, make([]byte, 4))
	return b.say("ct state", strings.Join(names, ","))
}

// DNATed matches connections whose destination was translated.
func (b *Builder) DNATed() *Builder {
	const dstNAT = 1 << 5
	b.ct(unix.NFT_CT_STATUS, 0)
	b.mask(0, dstNAT)
	b.cmp(true, 0, make([]byte, 4))
	return b.say("ct status dnat")
}

func (b *Builder) fib(word string, flag uint32) *Builder {
	b.expr("fib", func(w *buffer) {
		w.u32(unix.NFTA_FIB_DREG, reg(0))
		w.u32(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE)
		w.u32(unix.NFTA_FIB_FLAGS, flag)
	})
	b.cmp(false, 0, binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL))
	return b.say("fib", word, "type local")
}

// ToLocal matches packets to an address of this host, FromLocal those from one.
func (b *Builder) ToLocal() *Builder   { return b.fib("daddr", unix.NFTA_FIB_F_DADDR) }
func (b *Builder) FromLocal() *Builder { return b.fib("saddr", unix.NFTA_FIB_F_SADDR) }
