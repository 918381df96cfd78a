package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"bramble.dev/internal/durable"
)

// Files of the PKI folder. Everything else is made from these keys whenever it is needed.
const (
	caCertFile            = "ca.crt"
	caKeyFile             = "ca.key"
	frontProxyCertFile    = "front-proxy-ca.crt"
	frontProxyKeyFile     = "front-proxy-ca.key"
	serviceAccountKeyFile = "service-account.key"
	secretsKeyFile        = "secrets.key"
)

// PKIOptions change how a PKI behaves; the zero value is right for a server.
type PKIOptions struct {
	Now func() time.Time // the clock, time.Now by default
}

// PKI is the cluster's certificate authority and its keys, kept in one folder.
type PKI struct {
	dir    string
	now    func() time.Time
	ca     authority
	front  authority // of the front proxy; see FrontProxyCACertPEM
	sa     crypto.Signer
	caHash string

	secretsKeys [][]byte // the first encrypts
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	pem  []byte
	key  crypto.Signer
}

// OpenPKI reads the keys in dir, or makes them when the folder has none yet.
func OpenPKI(dir string, o PKIOptions) (*PKI, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	p := &PKI{dir: dir, now: o.Now}
	var err error
	if p.ca, err = p.openAuthority(caCertFile, caKeyFile, commonName); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(p.ca.cert.Raw)
	p.caHash = hex.EncodeToString(sum[:])
	if p.front, err = p.openAuthority(frontProxyCertFile, frontProxyKeyFile, frontProxyName); err != nil {
		return nil, err
	}
	if p.sa, err = p.openKey(serviceAccountKeyFile); err != nil {
		return nil, err
	}
	if p.secretsKeys, err = p.openSecretsKeys(); err != nil {
		return nil, err
	}
	return p, nil
}

// openAuthority reads an authority, or makes it at its first use. Its certificate is written after its key, so a folder with a key
// alone was left by a process that died between the two, and the certificate is made again from the same key.
func (p *PKI) openAuthority(certFile, keyFile, name string) (a authority, err error) {
	certPath := filepath.Join(p.dir, certFile)
	a.pem, err = os.ReadFile(certPath)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return a, fmt.Errorf("pki: %w", err)
	}
	if err == nil {
		if _, err := os.Stat(filepath.Join(p.dir, keyFile)); err != nil {
			return a, fmt.Errorf("pki: %s exists but its key %s does not: restore the key from a backup of the data folder: %w", certPath, keyFile, err)
		}
	}
	if a.key, err = p.openKey(keyFile); err != nil {
		return a, err
	}
	if a.pem == nil {
		if a.pem, err = p.selfSign(name, a.key); err != nil {
			return a, fmt.Errorf("pki: make the certificate authority: %w", err)
		}
		if err := durable.WriteFile(certPath, a.pem, 0o644); err != nil {
			return a, err
		}
	}
	if a.cert, err = parseCertificate(a.pem); err != nil {
		return a, fmt.Errorf("pki: %s: %w", certPath, err)
	}
	if !samePublicKey(a.cert.PublicKey, a.key.Public()) {
		return a, fmt.Errorf("pki: %s and %s do not belong together: the folder holds files of two clusters", certFile, keyFile)
	}
	return a, nil
}

// CACertPEM is the authority's certificate, which clients trust.
func (p *PKI) CACertPEM() []byte { return p.ca.pem }

// CAHash is the SHA-256 of the authority's certificate (DER) in hexadecimal. Join tokens carry it.
func (p *PKI) CAHash() string { return p.caHash }

// CACertificate is the authority's certificate.
func (p *PKI) CACertificate() *x509.Certificate { return p.ca.cert }

// CAPool trusts the cluster's authority and nobody else.
func (p *PKI) CAPool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.ca.cert)
	return pool
}

// ServiceAccountKey signs the tokens of service accounts.
func (p *PKI) ServiceAccountKey() crypto.Signer { return p.sa }

// openKey reads a private key, or makes it at its first use.
func (p *PKI) openKey(name string) (crypto.Signer, error) {
	path := filepath.Join(p.dir, name)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("pki: make %s: %w", name, err)
		}
		data, err := encodeKey(key)
		if err != nil {
			return nil, fmt.Errorf("pki: make %s: %w", name, err)
		}
		return key, durable.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, fmt.Errorf("pki: %s: %w", path, err)
	}
	return key, nil
}
