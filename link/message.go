package link

import (
	"fmt"
	"time"
)

// SetID names a set on the wire.
type SetID byte

// The sets of protocol version 1.
const (
	NodeSet   SetID = 1 // what one node needs; from the server
	SharedSet SetID = 2 // what all nodes of a site need; from the server
	StatusSet SetID = 3 // what a node reports; from the agent
)

var setNames = map[SetID]string{NodeSet: "node", SharedSet: "shared", StatusSet: "status"}

func (id SetID) String() string {
	if name, ok := setNames[id]; ok {
		return name
	}
	return fmt.Sprintf("set-%d", byte(id))
}

// A datagram holds messages one after the other: a type, the length of the body, the body. A
// receiver skips types that it does not know.
const (
	typeAck    = 1  // the newest paced datagram that arrived
	typePing   = 2  // a digest of everything; answered by pong or by asks
	typePong   = 3  // the server's time
	typeHave   = 4  // the root of a replica
	typeAsk    = 5  // a question of a source about a replica
	typeTell   = 6  // the answer
	typeItems  = 7  // changes for a replica
	typePart   = 8  // a piece of a message that is too large for a datagram
	typeData   = 9  // bytes of a stream
	typeCredit = 10 // how far a stream was received, and how far it may be sent
	typeReset  = 11 // the end of a stream
	typeAccept = 12 // the server accepts a handshake
	typeRefuse = 13 // or not
	typeRenew  = 14 // the agent wants a new certificate for its key
	typeCert   = 15 // and gets it
	typeHold   = 16 // the agent's own time: the server is to say that it heard of it
	typeHeld   = 17 // and does
)

func (e *encoder) message(kind byte, body []byte) {
	e.byte(kind)
	e.bytes(body)
}

// messageSize is the size of a message with a body of n bytes.
func messageSize(n int) int { return 1 + uvarintSize(uint64(n)) + n }

func uvarintSize(v uint64) (n int) {
	for n = 1; v >= 0x80; n++ {
		v >>= 7
	}
	return n
}

// ack tells which datagrams arrived, as far as the pace of sending depends on it. What was lost is
// found by digests and offsets, never by acks.
type ack struct {
	counter uint64        // of the newest datagram with items or stream bytes
	held    time.Duration // how long the ack waited before it was sent
}

func (m ack) encode() []byte {
	var e encoder
	e.uvarint(m.counter)
	e.uvarint(uint64(m.held / time.Millisecond))
	return e.b
}

func decodeAck(b []byte) (m ack, err error) {
	d := decoder{b: b}
	m.counter = d.uvarint()
	m.held = time.Duration(min(d.uvarint(), 1<<20)) * time.Millisecond
	return m, d.end()
}

const pingSize = 8

// have tells the root of a replica.
type have struct {
	set   SetID
	flags byte
	upto  uint64 // the newest items message that was applied
	root  Digest
}

const (
	haveResume = 1 << iota // what was under way is lost: the transport was cut
	haveBusy               // items have arrived that are not applied yet
	haveUnsure             // the replica does not know whether it is equal to the source
)

func (m have) encode() []byte {
	var e encoder
	e.byte(byte(m.set))
	e.byte(m.flags)
	e.uvarint(m.upto)
	e.raw(m.root[:])
	return e.b
}

func decodeHave(b []byte) (m have, err error) {
	d := decoder{b: b}
	m.set, m.flags, m.upto, m.root = SetID(d.byte()), d.byte(), d.uvarint(), d.digest()
	return m, d.end()
}

// The questions of a source, and the answers to them.
const (
	askRoot   = 0 // answered by have
	askTops   = 1 // the digests of the children of the root
	askLeaves = 2 // the digests of the leaves below some of them
	askItems  = 3 // the hashes of the items of some leaves
)

type ask struct {
	set    SetID
	kind   byte
	salt   salt
	tops   uint16  // askLeaves
	marked leafSet // askItems
}

func (m *ask) encode() []byte {
	var e encoder
	e.byte(byte(m.set))
	e.byte(m.kind)
	if m.kind == askRoot {
		return e.b
	}
	e.raw(m.salt[:])
	switch m.kind {
	case askLeaves:
		e.uint16(m.tops)
	case askItems:
		e.marked(&m.marked)
	}
	return e.b
}

func decodeAsk(b []byte) (m ask, err error) {
	d := decoder{b: b}
	m.set, m.kind = SetID(d.byte()), d.byte()
	if m.kind == askRoot {
		return m, d.end()
	}
	copy(m.salt[:], d.raw(len(m.salt)))
	switch m.kind {
	case askTops:
	case askLeaves:
		m.tops = d.uint16()
	case askItems:
		m.marked = d.marked()
	default:
		d.fail()
	}
	return m, d.end()
}

// marked writes a set of leaves: for each child of the root that has one a bit, then its leaves.
func (e *encoder) marked(l *leafSet) {
	var tops uint16
	for i := range fanout {
		if l[2*i]|l[2*i+1] != 0 {
			tops |= 1 << i
		}
	}
	e.uint16(tops)
	for i := range fanout {
		if tops&(1<<i) != 0 {
			e.byte(l[2*i])
			e.byte(l[2*i+1])
		}
	}
}

func (d *decoder) marked() (l leafSet) {
	tops := d.uint16()
	for i := range fanout {
		if tops&(1<<i) != 0 {
			l[2*i], l[2*i+1] = d.byte(), d.byte()
		}
	}
	return l
}

// tell answers an ask; body is what the question was about.
type tell struct {
	set  SetID
	kind byte
	salt salt
	body []byte
}

func (m *tell) encode() []byte {
	var e encoder
	e.byte(byte(m.set))
	e.byte(m.kind)
	e.raw(m.salt[:])
	e.raw(m.body)
	return e.b
}

func decodeTell(b []byte) (m tell, err error) {
	d := decoder{b: b}
	m.set, m.kind = SetID(d.byte()), d.byte()
	copy(m.salt[:], d.raw(len(m.salt)))
	m.body = d.b
	return m, d.err
}

// listed reads the answer to askItems.
func listed(body []byte, marked *leafSet) ([][]uint32, error) {
	d := decoder{b: body}
	var lists [][]uint32
	for leaf := range leaves {
		if !marked.has(leaf) {
			continue
		}
		list := make([]uint32, d.count(4))
		for i := range list {
			list[i] = d.uint32()
		}
		lists = append(lists, list)
	}
	return lists, d.end()
}

// items brings a replica forward.
type items struct {
	set     SetID
	id      uint64 // counts up by one in a session
	last    bool   // root is valid: what the replica has after this message
	root    Digest
	salt    salt // of drops
	drops   []drop
	changes []Change
}

const (
	itemsLast = 1 << iota
	itemsDeflated
)

// minDeflate is the size from which changes are worth compressing.
const minDeflate = 100

// encode compresses the changes if that makes them smaller.
func (m *items) encode(compress func([]byte) []byte) []byte {
	var body encoder
	body.uvarint(uint64(len(m.drops)))
	if len(m.drops) > 0 {
		body.raw(m.salt[:])
	}
	for _, d := range m.drops {
		body.byte(d.leaf)
		body.uint32(d.hash)
	}
	body.uvarint(uint64(len(m.changes)))
	for _, c := range m.changes {
		body.string(c.Key)
		if c.Value == nil {
			body.uvarint(0)
			continue
		}
		body.uvarint(uint64(len(c.Value)) + 1)
		body.raw(c.Value)
	}
	var flags byte
	content := body.b
	if len(content) < minDeflate {
		// not worth it
	} else if small := compress(content); len(small) > 0 && len(small) < len(content) {
		content, flags = small, itemsDeflated
	}
	if m.last {
		flags |= itemsLast
	}
	var e encoder
	e.b = make([]byte, 0, len(content)+32)
	e.byte(byte(m.set))
	e.byte(flags)
	e.uvarint(m.id)
	if m.last {
		e.raw(m.root[:])
	}
	if flags&itemsDeflated != 0 {
		e.uvarint(uint64(len(body.b)))
	}
	e.raw(content)
	return e.b
}

// decodeItems expands what was compressed: to no more than a message may have.
func decodeItems(b []byte, expand func(b []byte, size int) ([]byte, error)) (m items, err error) {
	d := decoder{b: b}
	m.set = SetID(d.byte())
	flags := d.byte()
	m.id = d.uvarint()
	if m.last = flags&itemsLast != 0; m.last {
		m.root = d.digest()
	}
	if flags&itemsDeflated != 0 {
		size := d.uvarint()
		if d.err != nil || size > maxMessage {
			return m, errMalformed
		}
		content, err := expand(d.b, int(size))
		if err != nil {
			return m, err
		}
		d.b = content
	}
	m.drops = make([]drop, d.count(5))
	if len(m.drops) > 0 {
		copy(m.salt[:], d.raw(len(m.salt)))
	}
	for i := range m.drops {
		m.drops[i] = drop{d.byte(), d.uint32()}
	}
	m.changes = make([]Change, d.count(2))
	for i := range m.changes {
		m.changes[i].Key = d.string()
		if n := d.uvarint(); n > 0 {
			if n-1 > uint64(len(d.b)) {
				return m, errMalformed
			}
			m.changes[i].Value = d.raw(int(n - 1))
		}
	}
	return m, d.end()
}
