package link

// Types 8 to 11: pieces of large messages, and streams.

// part is a piece of a message that is too large for one datagram.
type part struct {
	id     uint64 // of the large message
	offset uint64
	total  uint64
	data   []byte
}

func (m *part) encode() []byte {
	var e encoder
	e.uvarint(m.id)
	e.uvarint(m.offset)
	e.uvarint(m.total)
	e.raw(m.data)
	return e.b
}

func decodePart(b []byte) (m part, err error) {
	d := decoder{b: b}
	m.id, m.offset, m.total = d.uvarint(), d.uvarint(), d.uvarint()
	m.data = d.b
	return m, d.err
}

// data carries bytes of a stream.
type data struct {
	stream uint64
	flags  byte
	offset uint64
	target string // with dataOpen
	bytes  []byte
}

const (
	dataOpen = 1 << iota // offset is 0: the stream begins, and this is what it leads to
	dataEnd              // nothing comes after these bytes
)

func (m *data) encode() []byte {
	var e encoder
	e.uvarint(m.stream)
	e.byte(m.flags)
	e.uvarint(m.offset)
	if m.flags&dataOpen != 0 {
		e.string(m.target)
	}
	e.raw(m.bytes)
	return e.b
}

func decodeData(b []byte) (m data, err error) {
	d := decoder{b: b}
	m.stream, m.flags, m.offset = d.uvarint(), d.byte(), d.uvarint()
	if m.flags&dataOpen != 0 {
		m.target = d.string()
	}
	m.bytes = d.b
	return m, d.err
}

// credit tells the sender of a stream what arrived and how far it may go.
type credit struct {
	stream   uint64
	received uint64 // all bytes before this offset
	limit    uint64 // may be sent up to here
	flags    byte
}

const (
	creditGap   = 1 << iota // something after received arrived: send again from there
	creditEnded             // everything arrived, the end included
)

func (m credit) encode() []byte {
	var e encoder
	e.uvarint(m.stream)
	e.uvarint(m.received)
	e.uvarint(m.limit)
	e.byte(m.flags)
	return e.b
}

func decodeCredit(b []byte) (m credit, err error) {
	d := decoder{b: b}
	m.stream, m.received, m.limit, m.flags = d.uvarint(), d.uvarint(), d.uvarint(), d.byte()
	return m, d.end()
}

// reset ends a stream in both directions.
type reset struct {
	stream uint64
	reason string // empty: the stream was complete and is forgotten
}

const maxReason = 1024

func (m reset) encode() []byte {
	var e encoder
	e.uvarint(m.stream)
	e.string(m.reason[:min(len(m.reason), maxReason)])
	return e.b
}

func decodeReset(b []byte) (m reset, err error) {
	d := decoder{b: b}
	m.stream, m.reason = d.uvarint(), d.string()
	return m, d.end()
}
