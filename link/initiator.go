package link

import (
	"bytes"
	"crypto"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"
)

// InitiatorConfig is what an agent brings to a handshake.
type InitiatorConfig struct {
	Cluster    string // ClusterID
	Place      string // the topic's place of the agent: NodePlace or JoinPlace
	Credential Credential
	Key        crypto.Signer // the node's key (ECDSA)
	// Roots holds the cluster's CA. A joining agent has none and knows the CA's hash (hex).
	Roots  *x509.CertPool
	CAHash string
	Now    time.Time // for the expiry of the server's certificate
}

// Initiator is the agent's side of a handshake: Frame is sent, and sent again, until Receive got
// the answer; after the second frame the session is tried.
type Initiator struct {
	cfg     InitiatorConfig
	private hpke.PrivateKey
	frame   []byte

	secrets     secrets
	keys        *Keys
	time        time.Time
	incarnation string
	ca          []byte
}

// NewInitiator begins a handshake.
func NewInitiator(cfg InitiatorConfig) (*Initiator, error) {
	kem, _, _ := suite()
	private, err := kem.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("link: key for the handshake: %w", err)
	}
	return newInitiator(cfg, private), nil
}

func newInitiator(cfg InitiatorConfig, private hpke.PrivateKey) *Initiator {
	h := hello{min: MinVersion, max: MaxVersion, kem: private.KEM().ID(), key: private.PublicKey().Bytes()}
	return &Initiator{cfg: cfg, private: private, frame: h.encode()}
}

// Frame is what is to be sent now.
func (i *Initiator) Frame() []byte { return i.frame }

// Keys are those of the session, once Frame is the second frame.
func (i *Initiator) Keys() (Keys, bool) {
	if i.keys == nil {
		return Keys{}, false
	}
	return *i.keys, true
}

// Server returns what the server said of itself: its time when it answered, the incarnation of its
// store, and for a joining agent the CA's certificate.
func (i *Initiator) Server() (now time.Time, incarnation string, ca []byte) {
	return i.time, i.incarnation, i.ca
}

// Receive takes the server's answer. A frame that is none, or is not the server's, gives an error
// and changes nothing: anybody may have sent it.
func (i *Initiator) Receive(frame []byte) error {
	if i.keys != nil {
		return errMalformed
	}
	w, prefix, sealed, err := decodeWelcome(frame)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(i.frame)
	if !bytes.Equal(w.hello[:], sum[:len(w.hello)]) {
		return fmt.Errorf("link: welcome for another hello")
	}
	if w.version < MinVersion || w.version > MaxVersion {
		return fmt.Errorf("link: the server chose version %d, which was not offered", w.version)
	}
	_, kdf, aead := suite()
	r, err := hpke.NewRecipient(w.enc, i.private, kdf, aead, exchangeInfo(i.cfg.Cluster, i.cfg.Place, i.frame))
	if err != nil {
		return fmt.Errorf("link: key exchange: %w", err)
	}
	s, err := newSecrets(r.Export)
	if err != nil {
		return fmt.Errorf("link: key exchange: %w", err)
	}
	if err := i.authenticate(s, prefix, sealed); err != nil {
		return err
	}
	i.secrets = s
	return i.answer(s, w, frame)
}

// authenticate checks that it was the server who answered.
func (i *Initiator) authenticate(s secrets, prefix, sealed []byte) error {
	plain, err := s.openOnce("welcome", prefix, sealed)
	if err != nil {
		return err
	}
	g, signed, signature, err := decodeGreeting(plain)
	if err != nil {
		return err
	}
	roots := i.cfg.Roots
	if roots == nil {
		sum := sha256.Sum256(g.ca)
		if hex.EncodeToString(sum[:]) != i.cfg.CAHash {
			return fmt.Errorf("link: the server's CA is not the one that the token names: is the token of another cluster?")
		}
		ca, err := x509.ParseCertificate(g.ca)
		if err != nil {
			return fmt.Errorf("link: the server's CA: %w", err)
		}
		roots = x509.NewCertPool()
		roots.AddCert(ca)
	}
	key, err := verifyServer(g.certificate, roots, i.cfg.Now)
	if err != nil {
		return err
	}
	if err := checkSignature(key, toSign("server", s.binding, i.frame, prefix, signed), signature); err != nil {
		return err
	}
	i.time, i.incarnation, i.ca = g.time, g.incarnation, g.ca
	return nil
}

// answer makes the second frame and the keys.
func (i *Initiator) answer(s secrets, w welcome, frame []byte) error {
	credential := i.cfg.Credential.encode()
	signature, err := i.cfg.Key.Sign(rand.Reader, toSign("agent", s.binding, i.frame, frame, credential), crypto.SHA256)
	if err != nil {
		return fmt.Errorf("link: sign the handshake: %w", err)
	}
	e := encoder{b: credential}
	e.bytes(signature)
	auth, err := s.sealOnce("auth", authPrefix(w.version, w.session), e.b)
	if err != nil {
		return fmt.Errorf("link: key exchange: %w", err)
	}
	keys, err := s.keys(w.session, w.version, true)
	if err != nil {
		return fmt.Errorf("link: key exchange: %w", err)
	}
	i.frame, i.keys = auth, &keys
	return nil
}
