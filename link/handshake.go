package link

import (
	"crypto/ecdsa"
	"crypto/hpke"
	"crypto/sha256"
	"fmt"
	"time"
)

// maxHello bounds what is parsed before anybody is authenticated.
const maxHello = 4096

// secrets are what the key exchange gives.
type secrets struct {
	export  func(label string, n int) ([]byte, error)
	binding []byte // a value to sign
}

func newSecrets(export func(string, int) ([]byte, error)) (secrets, error) {
	binding, err := export("binding", 32)
	return secrets{export, binding}, err
}

// exchangeInfo binds the exchange to the cluster, to the topic and to the first frame.
func exchangeInfo(cluster, place string, hello []byte) []byte {
	var e encoder
	e.string("bramble link 1")
	e.string(cluster)
	e.string(place)
	sum := sha256.Sum256(hello)
	e.raw(sum[:])
	return e.b
}

// toSign is what a side signs: who it is, all that was said so far, and the binding.
func toSign(role string, binding []byte, said ...[]byte) []byte {
	h := sha256.New()
	var e encoder
	e.string("bramble link 1 " + role)
	e.bytes(binding)
	h.Write(e.b)
	for _, s := range said {
		sum := sha256.Sum256(s)
		h.Write(sum[:])
	}
	return h.Sum(nil)
}

// sealOnce seals the only message under a label's key.
func (s secrets) sealOnce(label string, prefix, plain []byte) ([]byte, error) {
	key, err := s.export(label, 32)
	if err != nil {
		return nil, err
	}
	return newAEAD(key).Seal(prefix, nonceOf(0), plain, prefix), nil
}

func (s secrets) openOnce(label string, prefix, sealed []byte) ([]byte, error) {
	key, err := s.export(label, 32)
	if err != nil {
		return nil, err
	}
	plain, err := newAEAD(key).Open(nil, nonceOf(0), sealed, prefix)
	if err != nil {
		return nil, errNotSealed
	}
	return plain, nil
}

func (s secrets) keys(session uint32, version byte, agent bool) (k Keys, err error) {
	up, err := s.export("agent to server", len(k.Send))
	if err != nil {
		return k, err
	}
	down, err := s.export("server to agent", len(k.Send))
	if err != nil {
		return k, err
	}
	if !agent {
		up, down = down, up
	}
	k.Session, k.Version = session, version
	copy(k.Send[:], up)
	copy(k.Receive[:], down)
	return k, nil
}

type hello struct {
	min, max byte
	kem      uint16
	key      []byte
}

func (m *hello) encode() []byte {
	var e encoder
	e.byte(MinVersion)
	e.byte(frameHello)
	e.byte(m.min)
	e.byte(m.max)
	e.uint16(m.kem)
	e.bytes(m.key)
	return e.b
}

func decodeHello(frame []byte) (m hello, err error) {
	if len(frame) > maxHello {
		return m, errMalformed
	}
	d := decoder{b: frame}
	d.byte()
	if d.byte() != frameHello {
		return m, errMalformed
	}
	m.min, m.max, m.kem, m.key = d.byte(), d.byte(), d.uint16(), d.bytes()
	return m, d.end()
}

// welcome is the server's answer; what follows enc is sealed.
type welcome struct {
	version byte
	session uint32
	hello   [8]byte // the beginning of the hash of the hello that it answers
	enc     []byte
}

func (m *welcome) encode() []byte {
	var e encoder
	e.byte(m.version)
	e.byte(frameWelcome)
	e.uint32(m.session)
	e.raw(m.hello[:])
	e.bytes(m.enc)
	return e.b
}

func decodeWelcome(frame []byte) (m welcome, prefix, sealed []byte, err error) {
	d := decoder{b: frame}
	m.version = d.byte()
	if d.byte() != frameWelcome {
		return m, nil, nil, errMalformed
	}
	m.session = d.uint32()
	copy(m.hello[:], d.raw(len(m.hello)))
	m.enc = d.bytes()
	if d.err != nil {
		return m, nil, nil, d.err
	}
	return m, frame[:len(frame)-len(d.b)], d.b, nil
}

// greeting is the sealed part of a welcome.
type greeting struct {
	time        time.Time
	incarnation string
	certificate []byte // of the server's link key
	ca          []byte // for a joining agent, which knows only its hash
}

func (m *greeting) encode() []byte {
	var e encoder
	e.uint64(uint64(m.time.UnixMilli()))
	e.string(m.incarnation)
	e.bytes(m.certificate)
	e.bytes(m.ca)
	return e.b
}

func decodeGreeting(b []byte) (m greeting, signed, signature []byte, err error) {
	d := decoder{b: b}
	m.time = time.UnixMilli(int64(d.uint64()))
	m.incarnation, m.certificate, m.ca = d.string(), d.bytes(), d.bytes()
	if d.err != nil {
		return m, nil, nil, d.err
	}
	signed = b[:len(b)-len(d.b)]
	signature = d.bytes()
	return m, signed, signature, d.end()
}

// Credential is what an agent says of itself in a handshake.
type Credential struct {
	Name     string
	Instance string // chosen at random when the board was set up; a reflashed board has a new one
	Counter  uint64 // grows with every session of the instance, across restarts
	// A joining agent has a token, any other a certificate.
	Certificate          []byte
	Key                  []byte // public, PKIX; of a joining agent
	TokenID, TokenSecret string
}

const (
	withCertificate = 1
	withToken       = 2
)

func (m *Credential) encode() []byte {
	var e encoder
	if m.Certificate != nil {
		e.byte(withCertificate)
	} else {
		e.byte(withToken)
	}
	e.string(m.Name)
	e.string(m.Instance)
	e.uint64(m.Counter)
	if m.Certificate != nil {
		e.bytes(m.Certificate)
	} else {
		e.bytes(m.Key)
		e.string(m.TokenID)
		e.string(m.TokenSecret)
	}
	return e.b
}

func decodeCredential(b []byte) (m Credential, signed, signature []byte, err error) {
	d := decoder{b: b}
	kind := d.byte()
	m.Name, m.Instance, m.Counter = d.string(), d.string(), d.uint64()
	switch kind {
	case withCertificate:
		m.Certificate = d.bytes()
	case withToken:
		m.Key, m.TokenID, m.TokenSecret = d.bytes(), d.string(), d.string()
	default:
		d.fail()
	}
	if d.err != nil {
		return m, nil, nil, d.err
	}
	signed = b[:len(b)-len(d.b)]
	signature = d.bytes()
	return m, signed, signature, d.end()
}

func authPrefix(version byte, session uint32) []byte {
	var e encoder
	e.byte(version)
	e.byte(frameAuth)
	e.uint32(session)
	return e.b
}

func decodeAuth(frame []byte) (session uint32, prefix, sealed []byte, err error) {
	d := decoder{b: frame}
	d.byte()
	if d.byte() != frameAuth {
		return 0, nil, nil, errMalformed
	}
	session = d.uint32()
	if d.err != nil {
		return 0, nil, nil, d.err
	}
	return session, frame[:len(frame)-len(d.b)], d.b, nil
}

// suite is what the handshake uses. It is a signed key exchange (SIGMA, as TLS 1.3 is): the agent sends a fresh public
// key, the server encapsulates a secret to it and signs, the agent signs; each signature covers everything before it and a
// value that only the two can know. Both keys of the exchange are new, so a recorded handshake is of no use tomorrow, and a
// key that is robbed tomorrow opens nothing that was recorded today. The exchange is X25519 with ML-KEM-768, the frames
// after it are ChaCha20-Poly1305 (boards have no AES instructions).
func suite() (hpke.KEM, hpke.KDF, hpke.AEAD) {
	return hpke.MLKEM768X25519(), hpke.HKDFSHA256(), hpke.ExportOnly()
}

func checkSignature(key *ecdsa.PublicKey, hash, signature []byte) error {
	if !ecdsa.VerifyASN1(key, hash, signature) {
		return fmt.Errorf("link: the signature of the handshake is wrong")
	}
	return nil
}
