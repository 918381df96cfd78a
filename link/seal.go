package link

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// The versions of the protocol that this code speaks.
const (
	MinVersion = 1
	MaxVersion = 1
)

// A frame is what a transport carries. It begins with the version and its kind.
const (
	frameHello   = 1 // an agent begins a handshake
	frameWelcome = 2 // the server answers
	frameAuth    = 3 // the agent proves who it is
	frameSealed  = 4 // messages of a session
	frameReject  = 5 // a hint that is not authenticated: the other side cannot use what it got
)

// Sizes in bytes.
const (
	// MaxFrame is the largest frame: with MQTT's header it stays below 32 KiB.
	MaxFrame = 32000
	// maxMessage is the largest message that is put together from parts: an object of the API may
	// have 1.5 MiB.
	maxMessage = 3 << 20

	sealedHeader = 2 + 4 + 8
	// sealOverhead is what sealing adds to the messages in a frame.
	sealOverhead = sealedHeader + chacha20poly1305.Overhead
)

// Errors of frames. None of them ends a session: a forged frame must not.
var (
	errNotSealed = errors.New("link: frame is not authentic")
	errReplayed  = errors.New("link: frame is a repetition or came late")
	errSession   = errors.New("link: frame is of another session")
)

// Keys are what a handshake leads to.
type Keys struct {
	Version byte
	Session uint32
	Send    [chacha20poly1305.KeySize]byte
	Receive [chacha20poly1305.KeySize]byte
}

type sealer struct {
	version byte
	session uint32
	aead    cipher.AEAD
	counter uint64 // of the last frame
}

func newAEAD(key []byte) cipher.AEAD {
	aead, err := chacha20poly1305.New(key)
	if err != nil {
		panic(err) // the size of a key is fixed
	}
	return aead
}

func nonceOf(counter uint64) []byte {
	nonce := make([]byte, chacha20poly1305.NonceSize)
	binary.BigEndian.PutUint64(nonce[chacha20poly1305.NonceSize-8:], counter)
	return nonce
}

// seal makes the next frame of messages.
func (s *sealer) seal(messages []byte) []byte {
	s.counter++
	e := encoder{b: make([]byte, 0, len(messages)+sealOverhead)}
	e.byte(s.version)
	e.byte(frameSealed)
	e.uint32(s.session)
	e.uint64(s.counter)
	return s.aead.Seal(e.b, nonceOf(s.counter), messages, e.b)
}

type opener struct {
	version byte
	session uint32
	aead    cipher.AEAD
	counter uint64 // of the newest frame that was accepted
}

// open returns the messages of a frame. Counters must grow: a frame that was overtaken is lost,
// as the transport may lose any other.
func (o *opener) open(frame []byte) (messages []byte, lost bool, err error) {
	session, ok := SessionOf(frame)
	if !ok || frame[0] != o.version {
		return nil, false, errNotSealed
	}
	if session != o.session {
		return nil, false, errSession
	}
	counter := binary.BigEndian.Uint64(frame[6:])
	if counter <= o.counter {
		return nil, false, errReplayed
	}
	messages, err = o.aead.Open(nil, nonceOf(counter), frame[sealedHeader:], frame[:sealedHeader])
	if err != nil {
		return nil, false, errNotSealed
	}
	lost = counter != o.counter+1
	o.counter = counter
	return messages, lost, nil
}

// SessionOf returns the session that a sealed frame claims to belong to; false for other frames.
func SessionOf(frame []byte) (uint32, bool) {
	if len(frame) < sealOverhead || frame[1] != frameSealed {
		return 0, false
	}
	return binary.BigEndian.Uint32(frame[2:]), true
}

// RejectReason says why a frame could not be used.
type RejectReason byte

// The reasons of a reject frame.
const (
	RejectSession RejectReason = 1 // no such session: begin a new one
	RejectVersion RejectReason = 2 // no common version
	RejectBusy    RejectReason = 3 // too many handshakes; try again later
)

// Reject makes a frame that tells a peer that its frame was of no use. It is not authenticated,
// so the peer takes it for what a lost frame would have told it later.
func Reject(reason RejectReason, session uint32) []byte {
	var e encoder
	e.byte(MaxVersion)
	e.byte(frameReject)
	e.byte(byte(reason))
	e.uint32(session)
	e.byte(MinVersion)
	e.byte(MaxVersion)
	return e.b
}

// Rejected is a reject frame that was received.
type Rejected struct {
	Reason   RejectReason
	Session  uint32
	Min, Max byte
}

func (r Rejected) Error() string {
	switch r.Reason {
	case RejectSession:
		return "the server does not know the session"
	case RejectVersion:
		return fmt.Sprintf("the server speaks versions %d to %d of the protocol, this agent %d to %d: upgrade the older one", r.Min, r.Max, MinVersion, MaxVersion)
	case RejectBusy:
		return "the server has too many handshakes under way"
	}
	return fmt.Sprintf("the server rejected a frame for reason %d", r.Reason)
}

// AsRejected reads a reject frame.
func AsRejected(frame []byte) (r Rejected, ok bool) {
	d := decoder{b: frame}
	d.byte()
	if d.byte() != frameReject {
		return r, false
	}
	r.Reason = RejectReason(d.byte())
	r.Session = d.uint32()
	r.Min, r.Max = d.byte(), d.byte()
	return r, d.err == nil
}
