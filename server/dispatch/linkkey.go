package dispatch

import (
	"crypto"
	"crypto/tls"
	"errors"
	"net"

	"bramble.dev/link"
)

// Serving is the part of the PKI that makes certificates of servers; *auth.PKI has it.
type Serving interface {
	ServingCertificate(names []string, ips []net.IP) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error)
}

// LinkKey gives Config.LinkKey from a PKI: a certificate for link.ServerName, renewed when due.
func LinkKey(p Serving) (func() (certificate []byte, key crypto.Signer, err error), error) {
	get, err := p.ServingCertificate([]string{link.ServerName}, nil)
	if err != nil {
		return nil, err
	}
	return func() ([]byte, crypto.Signer, error) {
		c, err := get(nil)
		if err != nil {
			return nil, nil, err
		}
		key, ok := c.PrivateKey.(crypto.Signer)
		if !ok {
			return nil, nil, errors.New("dispatch: the link key cannot sign")
		}
		return c.Certificate[0], key, nil
	}, nil
}
