package nft

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// buffer builds netlink messages in place: lengths are filled in when an attribute or message ends,
// so that 5,000 services cost one growing slice and nothing else.
type buffer []byte

func (b *buffer) align() {
	for len(*b)%4 != 0 {
		*b = append(*b, 0)
	}
}

func (b *buffer) bytes(typ uint16, v []byte) {
	*b = binary.NativeEndian.AppendUint16(*b, uint16(4+len(v)))
	*b = binary.NativeEndian.AppendUint16(*b, typ)
	*b = append(*b, v...)
	b.align()
}

func (b *buffer) string(typ uint16, v string) {
	*b = binary.NativeEndian.AppendUint16(*b, uint16(4+len(v)+1))
	*b = binary.NativeEndian.AppendUint16(*b, typ)
	*b = append(*b, v...)
	*b = append(*b, 0)
	b.align()
}

func (b *buffer) u8(typ uint16, v uint8) { b.bytes(typ, []byte{v}) }

func (b *buffer) u32(typ uint16, v uint32) {
	*b = binary.NativeEndian.AppendUint16(*b, 8)
	*b = binary.NativeEndian.AppendUint16(*b, typ)
	*b = binary.BigEndian.AppendUint32(*b, v)
}

func (b *buffer) u64(typ uint16, v uint64) {
	*b = binary.NativeEndian.AppendUint16(*b, 12)
	*b = binary.NativeEndian.AppendUint16(*b, typ)
	*b = binary.BigEndian.AppendUint64(*b, v)
}

// begin opens a nested attribute; end closes it.
func (b *buffer) begin(typ uint16) int {
	at := len(*b)
	*b = append(*b, 0, 0, 0, 0)
	binary.NativeEndian.PutUint16((*b)[at+2:], typ|unix.NLA_F_NESTED)
	return at
}

func (b *buffer) end(at int) {
	binary.NativeEndian.PutUint16((*b)[at:], uint16(len(*b)-at))
}

// message opens a netlink message of nftables; finish closes it.
func (b *buffer) message(typ, flags uint16, family uint8, resource uint16, seq uint32) int {
	at := len(*b)
	*b = append(*b, 0, 0, 0, 0)
	*b = binary.NativeEndian.AppendUint16(*b, typ)
	*b = binary.NativeEndian.AppendUint16(*b, flags|unix.NLM_F_REQUEST)
	*b = binary.NativeEndian.AppendUint32(*b, seq)
	*b = append(*b, 0, 0, 0, 0)
	*b = append(*b, family, unix.NFNETLINK_V0)
	*b = binary.BigEndian.AppendUint16(*b, resource)
	return at
}

func (b *buffer) finish(at int) {
	binary.NativeEndian.PutUint32((*b)[at:], uint32(len(*b)-at))
}

// attributes calls f for each attribute of a message or nest; it stops quietly at anything malformed,
// because only the kernel writes what it reads.
func attributes(data []byte, f func(typ uint16, v []byte)) {
	for len(data) >= 4 {
		n := int(binary.NativeEndian.Uint16(data))
		typ := binary.NativeEndian.Uint16(data[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if n < 4 || n > len(data) {
			return
		}
		f(typ, data[4:n])
		n = (n + 3) &^ 3
		if n > len(data) {
			return
		}
		data = data[n:]
	}
}

func text(v []byte) string {
	if n := len(v); n > 0 && v[n-1] == 0 {
		v = v[:n-1]
	}
	return string(v)
}

func be32(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(v)
}

func be64(v []byte) uint64 {
	if len(v) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}
