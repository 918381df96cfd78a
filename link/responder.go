package link

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// Bounds of what is remembered of handshakes that are not complete. Anybody can begin one; when
// there are too many the oldest is forgotten, and an honest agent begins again.
const (
	maxHandshakes = 1024
	handshakeTime = 30 * time.Second
)

// ResponderConfig is what the server brings to handshakes.
type ResponderConfig struct {
	Cluster     string
	Roots       *x509.CertPool // the cluster's CA
	CA          []byte         // its certificate
	Incarnation string
	// LinkKey returns the server's link key and its certificate; it is asked for every handshake,
	// so that a renewed one is used at once.
	LinkKey func() (certificate []byte, key crypto.Signer, err error)
}

// Responder is the server's side of all handshakes. It is safe for use by several goroutines.
type Responder struct {
	cfg ResponderConfig

	mu      sync.Mutex
	pending map[uint32]*handshake
	byHello map[[sha256.Size]byte]*handshake
	oldest  []*handshake // by time
}

type handshake struct {
	began   time.Time
	place   string
	sum     [sha256.Size]byte
	hello   []byte
	frame   []byte // the welcome
	version byte
	session uint32
	secrets secrets
	done    bool
}

// NewResponder makes a responder.
func NewResponder(cfg ResponderConfig) *Responder {
	return &Responder{cfg: cfg, pending: map[uint32]*handshake{}, byHello: map[[sha256.Size]byte]*handshake{}}
}

// Agent is one whose handshake is complete: it holds the private key of Key, and sent the
// last frame just now. Whether the key is that of a node, or the token is valid, is not checked.
type Agent struct {
	Credential
	SPKI    []byte // the key that it holds, PKIX
	Expires time.Time
	Expired bool // the certificate
	Keys    Keys
}

// Receive takes a frame of an agent at a place. It returns a frame to send back, or a peer.
func (r *Responder) Receive(place string, frame []byte, now time.Time) (reply []byte, peer *Agent, err error) {
	if len(frame) < 2 {
		return nil, nil, errMalformed
	}
	switch frame[1] {
	case frameHello:
		reply, err = r.welcome(place, frame, now)
		return reply, nil, err
	case frameAuth:
		peer, err = r.auth(place, frame, now)
		return nil, peer, err
	}
	return nil, nil, errMalformed
}

func (r *Responder) welcome(place string, frame []byte, now time.Time) ([]byte, error) {
	m, err := decodeHello(frame)
	if err != nil {
		return nil, err
	}
	version := min(m.max, MaxVersion)
	if version < max(m.min, MinVersion) {
		return Reject(RejectVersion, 0), nil
	}
	sum := sha256.Sum256(append([]byte(place+"\x00"), frame...))
	r.mu.Lock()
	known := r.byHello[sum]
	r.mu.Unlock()
	if known != nil {
		return known.frame, nil // the answer was lost
	}
	kem, kdf, aead := suite()
	if m.kem != kem.ID() {
		return Reject(RejectVersion, 0), nil
	}
	public, err := kem.NewPublicKey(m.key)
	if err != nil {
		return nil, errMalformed
	}
	h := &handshake{began: now, place: place, sum: sum, hello: frame, version: version}
	enc, sender, err := hpke.NewSender(public, kdf, aead, exchangeInfo(r.cfg.Cluster, place, frame))
	if err != nil {
		return nil, errMalformed
	}
	if h.secrets, err = newSecrets(sender.Export); err != nil {
		return nil, err
	}
	var id [4]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	h.session = binary.BigEndian.Uint32(id[:])
	if err := r.greet(h, enc, now); err != nil {
		return nil, err
	}
	r.remember(h, now)
	return h.frame, nil
}

// greet makes the welcome of a handshake.
func (r *Responder) greet(h *handshake, enc []byte, now time.Time) error {
	certificate, key, err := r.cfg.LinkKey()
	if err != nil {
		return fmt.Errorf("link: the server's key: %w", err)
	}
	w := welcome{version: h.version, session: h.session, enc: enc}
	helloSum := sha256.Sum256(h.hello)
	copy(w.hello[:], helloSum[:])
	prefix := w.encode()
	g := greeting{time: now, incarnation: r.cfg.Incarnation, certificate: certificate}
	if isJoin(h.place) {
		g.ca = r.cfg.CA
	}
	plain := g.encode()
	signature, err := key.Sign(rand.Reader, toSign("server", h.secrets.binding, h.hello, prefix, plain), crypto.SHA256)
	if err != nil {
		return fmt.Errorf("link: sign the handshake: %w", err)
	}
	e := encoder{b: plain}
	e.bytes(signature)
	h.frame, err = h.secrets.sealOnce("welcome", prefix, e.b)
	return err
}

func (r *Responder) remember(h *handshake, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.oldest) > 0 && (len(r.oldest) >= maxHandshakes || now.Sub(r.oldest[0].began) > handshakeTime) {
		old := r.oldest[0]
		r.oldest[0] = nil
		r.oldest = r.oldest[1:]
		delete(r.byHello, old.sum)
		if r.pending[old.session] == old {
			delete(r.pending, old.session)
		}
	}
	r.pending[h.session] = h
	r.byHello[h.sum] = h
	r.oldest = append(r.oldest, h)
}

// auth checks the second frame of an agent. It may come twice: the second time the peer is nil.
func (r *Responder) auth(place string, frame []byte, now time.Time) (*Agent, error) {
	session, prefix, sealed, err := decodeAuth(frame)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	h := r.pending[session]
	done := h != nil && h.done
	r.mu.Unlock()
	if h == nil || h.place != place {
		return nil, errSession
	}
	if done {
		return nil, nil
	}
	plain, err := h.secrets.openOnce("auth", prefix, sealed)
	if err != nil {
		return nil, err
	}
	c, signed, signature, err := decodeCredential(plain)
	if err != nil {
		return nil, err
	}
	peer := &Agent{Credential: c}
	key, err := r.keyOf(peer, now)
	if err != nil {
		return nil, err
	}
	if place != peer.place(place) {
		return nil, fmt.Errorf("link: the certificate of node %q was used at %q", c.Name, place)
	}
	if err := checkSignature(key, toSign("agent", h.secrets.binding, h.hello, h.frame, signed), signature); err != nil {
		return nil, err
	}
	if peer.Keys, err = h.secrets.keys(session, h.version, false); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if h.done {
		return nil, nil
	}
	h.done = true
	return peer, nil
}

// Again lets the last frame of a handshake count once more: there was no room to decide about the agent, and it repeats
// the frame until it is answered.
func (r *Responder) Again(agent *Agent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.pending[agent.Keys.Session]; h != nil {
		h.done = false
	}
}

// place is where the peer should be: a node at its own topic, a joining agent anywhere.
func (p *Agent) place(at string) string {
	if p.Certificate == nil {
		if isJoin(at) {
			return at
		}
		return ""
	}
	return NodePlace(p.Name)
}

func (r *Responder) keyOf(p *Agent, now time.Time) (*ecdsa.PublicKey, error) {
	if err := CheckNodeName(p.Name); err != nil {
		return nil, err
	}
	if p.Certificate == nil {
		public, err := x509.ParsePKIXPublicKey(p.Key)
		if err != nil {
			return nil, fmt.Errorf("link: key of the joining node: %w", err)
		}
		key, ok := public.(*ecdsa.PublicKey)
		if !ok {
			return nil, fmt.Errorf("link: key of the joining node is a %T, not an ECDSA key", public)
		}
		p.SPKI = p.Key
		return key, nil
	}
	c, err := VerifyNodeCertificate(p.Certificate, r.cfg.Roots, now)
	if err != nil {
		return nil, err
	}
	if c.Name != p.Name {
		return nil, fmt.Errorf("link: the certificate of node %q was used for node %q", c.Name, p.Name)
	}
	p.SPKI, p.Expires, p.Expired = c.SPKI, c.Expires, c.Expired
	return c.Key, nil
}
