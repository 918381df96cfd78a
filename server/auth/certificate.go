package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"
)

const (
	year           = 365 * 24 * time.Hour
	caLife         = 30 * year
	leafLife       = year
	commonName     = "Bramble cluster CA"
	frontProxyName = "Bramble front proxy CA"
)

// notBefore is the start of every certificate's life: a board that boots with the time of its last image, or the server itself
// with a wrong clock, must not make certificates that the others call "not yet valid".
var notBefore = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// clockFloor bounds what a server whose clock starts in 1970 believes: lives are counted from here at least.
var clockFloor = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (p *PKI) until(life time.Duration) time.Time {
	now := p.now()
	if now.Before(clockFloor) {
		now = clockFloor
	}
	return now.Add(life).UTC()
}

// due tells whether a certificate has less than a third of its life left.
func (p *PKI) due(c *x509.Certificate) bool { return p.now().Add(leafLife / 3).After(c.NotAfter) }

func (p *PKI) selfSign(name string, key crypto.Signer) ([]byte, error) {
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: notBefore, NotAfter: p.until(caLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := sign(t, t, key.Public(), key)
	return encodeCertificate(der), err
}

func sign(t, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	t.SerialNumber = serial.Add(serial, big.NewInt(1))
	return x509.CreateCertificate(rand.Reader, t, parent, pub, key)
}

func (p *PKI) leaf(by authority, t *x509.Certificate, pub crypto.PublicKey) ([]byte, error) {
	t.NotBefore, t.NotAfter, t.BasicConstraintsValid = notBefore, p.until(leafLife), true
	t.KeyUsage = x509.KeyUsageDigitalSignature
	return sign(t, by.cert, pub, by.key)
}

// client signs a client certificate for a user and its groups.
func (p *PKI) client(user string, groups []string, pub crypto.PublicKey) ([]byte, error) {
	return p.leaf(p.ca, &x509.Certificate{Subject: pkix.Name{CommonName: user, Organization: groups}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, pub)
}

// A certificate that somebody asked for is back-dated, for clocks that are behind. One that lasts less than short ends when it was asked
// to all the same; the numbers are upstream's.
const (
	backdate = 5 * time.Minute
	short    = 8 * time.Hour
)

// SignRequest certifies the key of a certificate request for what its subject and alternative names say, for at most a year. It is for
// requests that somebody has approved: nothing is checked but that who asks has the key.
func (p *PKI) SignRequest(r *x509.CertificateRequest, use x509.KeyUsage, extended []x509.ExtKeyUsage, life time.Duration) ([]byte, error) {
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("unable to verify certificate request signature: %w", err)
	}
	t := &x509.Certificate{
		Subject: r.Subject, DNSNames: r.DNSNames, IPAddresses: r.IPAddresses, EmailAddresses: r.EmailAddresses, URIs: r.URIs,
		KeyUsage: use, ExtKeyUsage: extended, BasicConstraintsValid: true,
		NotBefore: p.until(-backdate), NotAfter: p.until(min(life, leafLife)),
	}
	if life >= short {
		t.NotAfter = t.NotAfter.Add(-backdate)
	}
	if t.NotAfter.After(p.ca.cert.NotAfter) {
		t.NotAfter = p.ca.cert.NotAfter
	}
	der, err := sign(t, p.ca.cert, r.PublicKey, p.ca.key)
	if err != nil {
		return nil, err
	}
	return encodeCertificate(der), nil
}

// NodeUser is the name by which the API knows a node.
func NodeUser(node string) string { return "system:node:" + node }

// NodesGroup is the group of all nodes.
const NodesGroup = "system:nodes"

// SignNode certifies that pub is the key of the node. The node keeps the private half.
func (p *PKI) SignNode(name string, pub crypto.PublicKey) ([]byte, error) {
	if name == "" {
		return nil, errors.New("pki: a node certificate needs a node name")
	}
	der, err := p.client(NodeUser(name), []string{NodesGroup}, pub)
	if err != nil {
		return nil, fmt.Errorf("pki: sign the certificate of node %s: %w", name, err)
	}
	return der, nil
}

// ClientCertificate makes a key and a client certificate for it, for programs that run beside the server.
func (p *PKI) ClientCertificate(user string, groups ...string) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := p.client(user, groups, key.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("pki: sign the certificate of %s: %w", user, err)
	}
	keyPEM, err = encodeKey(key)
	return encodeCertificate(der), keyPEM, err
}

// ServingCertificate gives the GetCertificate function of a TLS server that is reached by these names and addresses. The
// certificate lives in memory alone: clients trust the authority, and a new one costs less than reading it from a card.
func (p *PKI) ServingCertificate(names []string, ips []net.IP) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	cn := "bramble"
	if len(names) > 0 {
		cn = names[0]
	}
	r := &renewed{pki: p, by: p.ca, chain: [][]byte{p.ca.cert.Raw}, template: x509.Certificate{
		Subject: pkix.Name{CommonName: cn}, DNSNames: names, IPAddresses: ips, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}}
	if _, err := r.get(); err != nil {
		return nil, fmt.Errorf("pki: serving certificate for %v %v: %w", names, ips, err)
	}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return r.get() }, nil
}

// renewed is a certificate of this process alone, made anew when it is due.
type renewed struct {
	pki      *PKI
	by       authority
	chain    [][]byte // sent behind it
	template x509.Certificate

	mu   sync.Mutex
	cert *tls.Certificate
}

func (r *renewed) get() (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cert != nil && !r.pki.due(r.cert.Leaf) {
		return r.cert, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := r.template
	der, err := r.pki.leaf(r.by, &t, key.Public())
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	r.cert = &tls.Certificate{Certificate: append([][]byte{der}, r.chain...), PrivateKey: key, Leaf: leaf}
	return r.cert, nil
}
