package link

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"math/big"
	"testing"
	"time"
)

// authority is a cluster's CA for tests.
type authority struct {
	t    testing.TB
	der  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t, key: newKey(t)}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(1700000000, 0), NotAfter: time.Unix(2700000000, 0), KeyUsage: x509.KeyUsageCertSign}
	a.der = a.create(template, template, a.key.Public())
	var err error
	if a.cert, err = x509.ParseCertificate(a.der); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) create(template, parent *x509.Certificate, key crypto.PublicKey) []byte {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a *authority) hash() string {
	sum := sha256.Sum256(a.der)
	return hex.EncodeToString(sum[:])
}

func (a *authority) link(key crypto.PublicKey) []byte {
	return a.create(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: ServerName}, DNSNames: []string{ServerName},
		NotBefore: time.Unix(1700000000, 0), NotAfter: time.Unix(2600000000, 0), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, a.cert, key)
}

func (a *authority) node(name string, key crypto.PublicKey) []byte {
	return a.create(&x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: NodePrefix + name, Organization: []string{NodeGroup}},
		NotBefore: time.Unix(1700000000, 0), NotAfter: time.Unix(2000000000, 0), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, a.cert, key)
}

var handshakeNow = time.Unix(1800000000, 0)

type handshakeTest struct {
	*authority
	linkKey, nodeKey *ecdsa.PrivateKey
	responder        *Responder
	initiator        InitiatorConfig
}

func newHandshake(t testing.TB) *handshakeTest {
	h := &handshakeTest{authority: newAuthority(t), linkKey: newKey(t), nodeKey: newKey(t)}
	certificate := h.link(h.linkKey.Public())
	h.responder = NewResponder(ResponderConfig{Cluster: ClusterID(h.hash()), Roots: h.pool(), CA: h.der, Incarnation: "i1",
		LinkKey: func() ([]byte, crypto.Signer, error) { return certificate, h.linkKey, nil }})
	h.initiator = InitiatorConfig{Cluster: ClusterID(h.hash()), Place: NodePlace("pi1"), Key: h.nodeKey, Roots: h.pool(), Now: handshakeNow,
		Credential: Credential{Name: "pi1", Instance: "abc", Counter: 7, Certificate: h.node("pi1", h.nodeKey.Public())}}
	return h
}

// run does a handshake; the error is that of the side that refused.
func (h *handshakeTest) run(place string) (*Initiator, *Agent, error) {
	i, err := NewInitiator(h.initiator)
	if err != nil {
		return nil, nil, err
	}
	reply, _, err := h.responder.Receive(place, i.Frame(), handshakeNow)
	if err != nil {
		return i, nil, err
	}
	if err := i.Receive(reply); err != nil {
		return i, nil, err
	}
	_, agent, err := h.responder.Receive(place, i.Frame(), handshakeNow)
	return i, agent, err
}

func TestHandshake(t *testing.T) {
	h := newHandshake(t)
	i, agent, err := h.run(NodePlace("pi1"))
	if err != nil {
		t.Fatal(err)
	}
	keys, _ := i.Keys()
	if keys.Send != agent.Keys.Receive || keys.Receive != agent.Keys.Send || keys.Session != agent.Keys.Session || keys.Send == keys.Receive {
		t.Error("keys differ")
	}
	if agent.Name != "pi1" || agent.Instance != "abc" || agent.Counter != 7 || agent.Expired {
		t.Errorf("%+v", agent)
	}
	if now, incarnation, _ := i.Server(); !now.Equal(handshakeNow) || incarnation != "i1" {
		t.Error(now, incarnation)
	}
	// The last frame comes twice: no second agent, no error.
	if _, again, err := h.responder.Receive(NodePlace("pi1"), i.Frame(), handshakeNow); again != nil || err != nil {
		t.Error(again, err)
	}
	// There was no room for it: the frame that the agent repeats counts again, once.
	h.responder.Again(agent)
	for _, want := range []bool{true, false} {
		if _, again, err := h.responder.Receive(NodePlace("pi1"), i.Frame(), handshakeNow); (again != nil) != want || err != nil {
			t.Errorf("after Again: %v %v, want an agent: %v", again, err, want)
		}
	}
}

func TestHandshakeOfJoiningNode(t *testing.T) {
	h := newHandshake(t)
	spki, err := x509.MarshalPKIXPublicKey(h.nodeKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	h.initiator.Roots, h.initiator.CAHash, h.initiator.Place = nil, h.hash(), JoinPlace("x1")
	h.initiator.Credential = Credential{Name: "pi1", Instance: "abc", Counter: 1, Key: spki, TokenID: "abcdef", TokenSecret: "0123456789abcdef"}
	i, agent, err := h.run(JoinPlace("x1"))
	if err != nil {
		t.Fatal(err)
	}
	if agent.TokenSecret != "0123456789abcdef" || string(agent.SPKI) != string(spki) || agent.Certificate != nil {
		t.Errorf("%+v", agent)
	}
	if _, _, ca := i.Server(); string(ca) != string(h.der) {
		t.Error("no CA")
	}
	h.initiator.CAHash = hex.EncodeToString(make([]byte, 32))
	if _, _, err := h.run(JoinPlace("x1")); err == nil {
		t.Error("a CA with another hash was taken")
	}
}

func TestHandshakeRefusesImpostors(t *testing.T) {
	other := newAuthority(t)
	tests := map[string]struct {
		change func(h *handshakeTest)
		place  string
	}{
		"server of another CA":             {func(h *handshakeTest) { h.initiator.Roots = other.pool() }, NodePlace("pi1")},
		"server with a node's certificate": {func(h *handshakeTest) { h.serverWith(h.node("pi2", h.linkKey.Public()), h.linkKey) }, NodePlace("pi1")},
		"server without the key":           {func(h *handshakeTest) { h.serverWith(h.link(h.linkKey.Public()), h.nodeKey) }, NodePlace("pi1")},
		"node without the key":             {func(h *handshakeTest) { h.initiator.Key = h.linkKey }, NodePlace("pi1")},
		"node at another's place":          {func(h *handshakeTest) {}, NodePlace("pi2")},
		"node of another CA": {func(h *handshakeTest) {
			h.initiator.Credential.Certificate = other.node("pi1", h.nodeKey.Public())
		}, NodePlace("pi1")},
		"server's certificate as a node's": {func(h *handshakeTest) {
			h.initiator.Credential.Certificate = h.link(h.nodeKey.Public())
		}, NodePlace("pi1")},
		"name that is not the certificate's": {func(h *handshakeTest) { h.initiator.Credential.Name = "pi2" }, NodePlace("pi1")},
		"another cluster":                    {func(h *handshakeTest) { h.initiator.Cluster = "other" }, NodePlace("pi1")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHandshake(t)
			test.change(h)
			if _, agent, err := h.run(test.place); err == nil || agent != nil {
				t.Errorf("accepted: %+v", agent)
			} else {
				t.Log(err)
			}
		})
	}
}

func (h *handshakeTest) serverWith(certificate []byte, key *ecdsa.PrivateKey) {
	h.responder.cfg.LinkKey = func() ([]byte, crypto.Signer, error) { return certificate, key, nil }
}

// TestHandshakeIsNotRepeatable: frames of an earlier handshake start nothing.
func TestHandshakeIsNotRepeatable(t *testing.T) {
	h := newHandshake(t)
	i, err := NewInitiator(h.initiator)
	if err != nil {
		t.Fatal(err)
	}
	hello := i.Frame()
	welcome, _, err := h.responder.Receive(NodePlace("pi1"), hello, handshakeNow)
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Receive(welcome); err != nil {
		t.Fatal(err)
	}
	auth := i.Frame()
	if _, agent, err := h.responder.Receive(NodePlace("pi1"), auth, handshakeNow); err != nil || agent == nil {
		t.Fatal(err)
	}
	// The server has forgotten, or was restarted.
	h.responder = NewResponder(h.responder.cfg)
	tomorrow := handshakeNow.Add(24 * time.Hour)
	if _, agent, err := h.responder.Receive(NodePlace("pi1"), auth, tomorrow); err == nil || agent != nil {
		t.Error("an old auth was accepted")
	}
	if _, _, err := h.responder.Receive(NodePlace("pi1"), hello, tomorrow); err != nil {
		t.Fatal(err)
	}
	if _, agent, err := h.responder.Receive(NodePlace("pi1"), auth, tomorrow); err == nil || agent != nil {
		t.Error("an old auth was accepted after its old hello")
	}
	next, err := NewInitiator(h.initiator)
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Receive(welcome); err == nil {
		t.Error("an old welcome was accepted")
	}
}

func TestHandshakesThatEndNowhereAreBounded(t *testing.T) {
	h := newHandshake(t)
	for range maxHandshakes + 50 {
		i, err := NewInitiator(h.initiator)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := h.responder.Receive(NodePlace("pi1"), i.Frame(), handshakeNow); err != nil {
			t.Fatal(err)
		}
	}
	if len(h.responder.pending) > maxHandshakes || len(h.responder.byHello) > maxHandshakes {
		t.Error(len(h.responder.pending))
	}
	if _, agent, err := h.run(NodePlace("pi1")); err != nil || agent == nil {
		t.Error(err)
	}
}
