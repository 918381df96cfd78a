package announce

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
)

// Port is where nodes hear each other, of UDP.
const Port = 8473

// magic begins a packet: the name and a version.
const magic = "BRLB\x01"

// maxAddresses bounds what a packet names.
const maxAddresses = 8000

// beat is what a node tells: who it is, of which cluster, and what it can serve.
type beat struct {
	cluster [8]byte
	node    string
	serves  []netip.Addr
}

func clusterTag(id string) (tag [8]byte) {
	sum := sha256.Sum256([]byte(id))
	copy(tag[:], sum[:])
	return tag
}

func (b beat) encode() []byte {
	out := append([]byte(magic), b.cluster[:]...)
	out = append(out, byte(len(b.node)))
	out = append(out, b.node...)
	out = binary.BigEndian.AppendUint16(out, uint16(len(b.serves)))
	for _, a := range b.serves {
		four := a.As4()
		out = append(out, four[:]...)
	}
	return out
}

var errBeat = errors.New("not a packet of an announcer")

func decodeBeat(in []byte) (b beat, err error) {
	if len(in) < len(magic)+9 || string(in[:len(magic)]) != magic {
		return b, errBeat
	}
	in = in[len(magic):]
	copy(b.cluster[:], in)
	n := int(in[8])
	in = in[9:]
	if len(in) < n+2 {
		return b, errBeat
	}
	b.node = string(in[:n])
	count := int(binary.BigEndian.Uint16(in[n:]))
	in = in[n+2:]
	if count > maxAddresses || len(in) != 4*count {
		return b, errBeat
	}
	for four := range slices.Chunk(in, 4) {
		b.serves = append(b.serves, netip.AddrFrom4([4]byte(four)))
	}
	return b, nil
}

// arp is one packet of ARP for IPv4 on Ethernet (RFC 826), with its frame.
type arp struct {
	to, from   net.HardwareAddr // of the frame
	request    bool
	sender     net.HardwareAddr
	senderIP   netip.Addr
	receiver   net.HardwareAddr
	receiverIP netip.Addr
}

const frameSize = 14 + 28

var (
	broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	nobody    = net.HardwareAddr{0, 0, 0, 0, 0, 0}
)

func (p arp) encode() []byte {
	out := make([]byte, 0, frameSize)
	out = append(out, p.to...)
	out = append(out, p.from...)
	out = append(out, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2)
	if p.request {
		out[len(out)-1] = 1
	}
	for _, half := range []struct {
		mac net.HardwareAddr
		ip  netip.Addr
	}{{p.sender, p.senderIP}, {p.receiver, p.receiverIP}} {
		four := half.ip.As4()
		out = append(append(out, half.mac...), four[:]...)
	}
	return out
}

func decodeARP(in []byte) (p arp, ok bool) {
	if len(in) < frameSize || string(in[12:20]) != "\x08\x06\x00\x01\x08\x00\x06\x04" || in[20] != 0 || in[21] != 1 && in[21] != 2 {
		return p, false
	}
	p.to, p.from, p.request = slices.Clone(in[0:6]), slices.Clone(in[6:12]), in[21] == 1
	p.sender, p.senderIP = slices.Clone(in[22:28]), netip.AddrFrom4([4]byte(in[28:32]))
	p.receiver, p.receiverIP = slices.Clone(in[32:38]), netip.AddrFrom4([4]byte(in[38:42]))
	return p, true
}

// claim tells a link that an address is here. There are two forms, and each is overlooked by some.
func claim(mac net.HardwareAddr, a netip.Addr) [][]byte {
	request := arp{to: broadcast, from: mac, request: true, sender: mac, senderIP: a, receiver: nobody, receiverIP: a}
	reply := request
	reply.request, reply.receiver = false, broadcast
	return [][]byte{request.encode(), reply.encode()}
}

// answer is what is to be said to who asks for an address that is here.
func answer(mac net.HardwareAddr, q arp) []byte {
	return arp{to: q.sender, from: mac, sender: mac, senderIP: q.receiverIP, receiver: q.sender, receiverIP: q.senderIP}.encode()
}
