package uplink

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// brokerTLS is how the agent speaks TLS with a broker. The broker is trusted with nothing, so this
// only keeps the curious away: the server's own broker is known by the cluster's authority (or, while
// joining, by its hash), another by the system's authorities or by those that were configured.
func (u *Uplink) brokerTLS(host string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         host,
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection:   func(s tls.ConnectionState) error { return u.verifyBroker(host, s.PeerCertificates) },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if c, err := u.id.tlsCertificate(); err == nil {
				return c, nil
			}
			return &tls.Certificate{}, nil
		},
	}
}

func (u *Uplink) verifyBroker(host string, chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return errors.New("the broker has no certificate")
	}
	if roots := u.pinned(chain); roots != nil && u.verify(chain, x509.VerifyOptions{Roots: roots}) == nil {
		return nil // whatever its address is: the server may move
	}
	if u.cfg.BrokerRoots != nil && u.verify(chain, x509.VerifyOptions{Roots: u.cfg.BrokerRoots, DNSName: host}) == nil {
		return nil
	}
	if err := u.verify(chain, x509.VerifyOptions{DNSName: host}); err != nil {
		return fmt.Errorf("the certificate of the broker is neither of this cluster nor known to this machine (is the token of another cluster?): %w", err)
	}
	return nil
}

// pinned is the cluster's authority: our own, or the one in the chain that the token names.
func (u *Uplink) pinned(chain []*x509.Certificate) *x509.CertPool {
	if roots := u.id.roots(); roots != nil || u.id.token == nil {
		return roots
	}
	for _, c := range chain {
		sum := sha256.Sum256(c.Raw)
		if hex.EncodeToString(sum[:]) == u.id.token.caHash {
			roots := x509.NewCertPool()
			roots.AddCert(c)
			return roots
		}
	}
	return nil
}

func (u *Uplink) verify(chain []*x509.Certificate, o x509.VerifyOptions) error {
	o.Intermediates = x509.NewCertPool()
	o.CurrentTime = u.now()
	for _, c := range chain {
		o.Intermediates.AddCert(c)
		// A board without a clock battery believes that it is 1970.
		o.CurrentTime = latest(o.CurrentTime, c.NotBefore)
	}
	_, err := chain[0].Verify(o)
	return err
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
