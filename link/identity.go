package link

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// ServerName is the DNS name in the certificate of the server's link key. A node's certificate
// cannot have it, so a robbed node key does not make a server.
const ServerName = "link.bramble.internal"

// NodePrefix begins the common name of a node's certificate, NodeGroup is its organization.
const (
	NodePrefix = "system:node:"
	NodeGroup  = "system:nodes"
)

// maxNodeName is the longest name of a node: it is also the value of a label.
const maxNodeName = 63

var nodeName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// CheckNodeName says what is wrong with a node's name.
func CheckNodeName(name string) error {
	if len(name) > maxNodeName {
		return fmt.Errorf("node name %q has %d characters, at most %d are possible", name, len(name), maxNodeName)
	}
	if !nodeName.MatchString(name) {
		return fmt.Errorf("node name %q: only lower-case letters, digits, '-' and '.' are possible, and a letter or digit at both ends", name)
	}
	return nil
}

// KeyAnnotation of a Node is the fingerprint of the key that the node must hold, on the link and at the API: a certificate for
// another key is of a board that was replaced.
const KeyAnnotation = "bramble.dev/node-key"

// Fingerprint identifies a public key given in its PKIX encoding.
func Fingerprint(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// ClusterID is the short name of a cluster in topics and keys: the beginning of its CA's hash.
func ClusterID(caHash string) string {
	return caHash[:min(10, len(caHash))]
}

// verifyAt checks a certificate chain at a time that cannot be too early: a board without a clock
// battery boots in 1970, and a certificate that "is not yet valid" only says so.
func verifyAt(leaf *x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, now time.Time) error {
	if now.Before(leaf.NotBefore) {
		now = leaf.NotBefore
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

// verifyServer checks the certificate of the server's link key and returns the key.
func verifyServer(der []byte, roots *x509.CertPool, now time.Time) (*ecdsa.PublicKey, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("server's link certificate: %w", err)
	}
	if err := verifyAt(leaf, roots, x509.ExtKeyUsageServerAuth, now); err != nil {
		return nil, fmt.Errorf("server's link certificate: %w", err)
	}
	if !slices.Contains(leaf.DNSNames, ServerName) || slices.Contains(leaf.Subject.Organization, NodeGroup) {
		return nil, fmt.Errorf("certificate %q is not that of a server's link key", leaf.Subject)
	}
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("server's link key is not an ECDSA key")
	}
	return key, nil
}

// NodeCertificate is a verified certificate of a node.
type NodeCertificate struct {
	Name    string
	Key     *ecdsa.PublicKey
	SPKI    []byte // the key in its PKIX encoding
	Expires time.Time
	Expired bool
}

// VerifyNodeCertificate checks a node's certificate. That it has expired is no error here: a board
// may have lain in a drawer; whether its key is still that of the node is for the caller to decide.
func VerifyNodeCertificate(der []byte, roots *x509.CertPool, now time.Time) (NodeCertificate, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return NodeCertificate{}, fmt.Errorf("node certificate: %w", err)
	}
	at := now
	expired := now.After(leaf.NotAfter)
	if expired {
		at = leaf.NotAfter
	}
	if err := verifyAt(leaf, roots, x509.ExtKeyUsageClientAuth, at); err != nil {
		return NodeCertificate{}, fmt.Errorf("node certificate: %w", err)
	}
	name, ok := strings.CutPrefix(leaf.Subject.CommonName, NodePrefix)
	if !ok || !slices.Contains(leaf.Subject.Organization, NodeGroup) {
		return NodeCertificate{}, fmt.Errorf("certificate %q is not that of a node", leaf.Subject)
	}
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return NodeCertificate{}, errors.New("node's key is not an ECDSA key")
	}
	return NodeCertificate{Name: name, Key: key, SPKI: leaf.RawSubjectPublicKeyInfo, Expires: leaf.NotAfter, Expired: expired}, nil
}
