package auth

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
)

// FrontProxyUser is the common name by which aggregated API servers know that a request comes from this one: who has that
// certificate names the user in headers, and is believed.
const FrontProxyUser = "front-proxy-client"

// FrontProxyCACertPEM is the certificate of the authority that signs nothing but the front proxy's certificate. It is another than the
// cluster's, because what that one signs (for whoever may have a CertificateSigningRequest approved) must not pass for the front proxy.
func (p *PKI) FrontProxyCACertPEM() []byte { return p.front.pem }

// FrontProxyCertificate gives the GetClientCertificate function of the front proxy. As with ServingCertificate, the certificate lives
// in memory alone.
func (p *PKI) FrontProxyCertificate() func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	r := &renewed{pki: p, by: p.front, template: x509.Certificate{
		Subject: pkix.Name{CommonName: FrontProxyUser}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}}
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		cert, err := r.get()
		if err != nil {
			return nil, fmt.Errorf("pki: front proxy's certificate: %w", err)
		}
		return cert, nil
	}
}
