package ingress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"sync"
	"sync/atomic"
	"time"
)

// certs answers by the name that a client asks for.
type certs struct {
	byName atomic.Pointer[map[string]*tls.Certificate] // "" is that for all others
}

// set takes in a table's certificates; of two for one name the first counts.
func (c *certs) set(list []Cert) error {
	names := map[string]*tls.Certificate{}
	var failed error
	for _, x := range list {
		pair, err := tls.X509KeyPair(x.Cert, x.Key)
		if err != nil {
			failed = fmt.Errorf("a certificate for %v: %w", x.Hosts, err)
			continue
		}
		hosts := x.Hosts
		if len(hosts) == 0 {
			hosts = []string{""}
		}
		for _, h := range hosts {
			if names[h] == nil {
				names[h] = &pair
			}
		}
	}
	c.byName.Store(&names)
	return failed
}

func (c *certs) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	host := normalHost(hello.ServerName)
	if names := c.byName.Load(); names != nil {
		for _, name := range []string{host, wildcard(host), ""} {
			if cert := (*names)[name]; cert != nil {
				return cert, nil
			}
		}
	}
	return standIn()
}

// standIn is for hosts that have no certificate: nobody trusts it, but who insists gets the page.
var standIn = sync.OnceValues(func() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	cert := x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "Bramble ingress: no certificate for this host"},
		DNSNames: []string{"ingress.invalid"}, NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(10 * 365 * 24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, &cert, &cert, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
})
