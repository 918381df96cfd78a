package auth

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

func open(t *testing.T, dir string, now func() time.Time) *PKI {
	t.Helper()
	p, err := OpenPKI(dir, PKIOptions{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPKIIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	a := open(t, dir, nil)
	b := open(t, dir, nil)
	if a.CAHash() != b.CAHash() || len(a.SecretsKeys()) != 1 || !bytes.Equal(a.SecretsKeys()[0], b.SecretsKeys()[0]) || !samePublicKey(a.ServiceAccountKey().Public(), b.ServiceAccountKey().Public()) {
		t.Error("a second start made new keys")
	}
	for _, f := range []string{caKeyFile, serviceAccountKeyFile, secretsKeyFile} {
		s, err := os.Stat(filepath.Join(dir, f))
		if err != nil {
			t.Fatal(err)
		}
		if s.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f, s.Mode())
		}
	}
}

func TestPKIAfterACrashBetweenItsTwoFiles(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, nil)
	if err := os.Remove(filepath.Join(dir, caCertFile)); err != nil {
		t.Fatal(err)
	}
	open(t, dir, nil)
}

func TestPKIRefusesWhatDoesNotBelongTogether(t *testing.T) {
	other := t.TempDir()
	open(t, other, nil)
	foreign, err := os.ReadFile(filepath.Join(other, caKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, file, want string
		content          []byte
	}{
		{"another cluster's key", caKeyFile, "two clusters", foreign},
		{"a damaged key", caKeyFile, "not a PEM private key: restore", []byte("\x00\x00")},
		{"a damaged certificate", caCertFile, "not a PEM certificate: restore", []byte("-----BEGIN")},
		{"a damaged key of Secrets", secretsKeyFile, "keys of 32 bytes", []byte("abc")},
		{"no key of Secrets", secretsKeyFile, "keys of 32 bytes", []byte("\n")},
		{"no key", caKeyFile, "restore the key from a backup", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			open(t, dir, nil)
			path := filepath.Join(dir, tt.file)
			if tt.content == nil {
				os.Remove(path)
			} else if err := os.WriteFile(path, tt.content, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenPKI(dir, PKIOptions{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// A board whose clock stands in 2020 must accept what a server with the right time has signed, and the other way round.
func TestCertificatesSurviveWrongClocks(t *testing.T) {
	for _, server := range []int{1970, 2026, 2060} {
		p := open(t, t.TempDir(), func() time.Time { return time.Date(server, 6, 1, 0, 0, 0, 0, time.UTC) })
		key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		der, err := p.SignNode("pi", key.Public())
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if c.Subject.CommonName != "system:node:pi" || len(c.Subject.Organization) != 1 || c.Subject.Organization[0] != "system:nodes" {
			t.Errorf("subject %v", c.Subject)
		}
		for _, at := range []time.Time{time.Date(2020, 1, 2, 0, 0, 0, 0, time.UTC), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)} {
			if _, err := c.Verify(x509.VerifyOptions{Roots: p.CAPool(), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
				t.Errorf("server in %d, client in %v: %v", server, at, err)
			}
		}
	}
}

func TestServingCertificateIsRenewedInTheProcess(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	p := open(t, t.TempDir(), func() time.Time { return now })
	get, err := p.ServingCertificate([]string{"localhost", "api.example"}, []net.IP{net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	first, _ := get(nil)
	now = now.Add(leafLife / 2)
	if again, _ := get(nil); again != first {
		t.Error("renewed too early")
	}
	now = now.Add(leafLife / 4)
	second, err := get(nil)
	if err != nil || second == first {
		t.Fatalf("not renewed: %v", err)
	}
	if !second.Leaf.NotAfter.After(first.Leaf.NotAfter) {
		t.Error("the new one lasts no longer")
	}
	if _, err := second.Leaf.Verify(x509.VerifyOptions{Roots: p.CAPool(), DNSName: "api.example", CurrentTime: now}); err != nil {
		t.Error(err)
	}
}

// Aggregated API servers believe what the front proxy says of a user, so nothing that the cluster's authority signs may pass for it.
func TestFrontProxyHasAnAuthorityOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir, nil)
	cert, err := p.FrontProxyCertificate()(nil)
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(open(t, dir, nil).FrontProxyCACertPEM())
	asClient := func(roots *x509.CertPool) x509.VerifyOptions {
		return x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	}
	if _, err := cert.Leaf.Verify(asClient(trusted)); err != nil || cert.Leaf.Subject.CommonName != FrontProxyUser {
		t.Errorf("%s: %v", cert.Leaf.Subject, err)
	}
	if _, err := cert.Leaf.Verify(asClient(p.CAPool())); err == nil {
		t.Error("the cluster's authority vouches for the front proxy: it would be a user of the API")
	}
	pem, _, err := p.ClientCertificate(FrontProxyUser)
	if err != nil {
		t.Fatal(err)
	}
	pretender, err := parseCertificate(pem)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pretender.Verify(asClient(trusted)); err == nil {
		t.Error("a certificate of the cluster's authority passes for the front proxy")
	}
}

func TestKubeconfigOpensTheServer(t *testing.T) {
	now := time.Now()
	p := open(t, t.TempDir(), func() time.Time { return now })
	get, err := p.ServingCertificate([]string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var user string
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { user = r.TLS.VerifiedChains[0][0].Subject.String() }),
		TLSConfig: &tls.Config{GetCertificate: get, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: p.CAPool()}}
	go srv.ServeTLS(l, "", "")
	t.Cleanup(func() { srv.Close() })

	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := p.WriteKubeconfig(path, "https://"+l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if s, _ := os.Stat(path); s.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", s.Mode())
	}
	c, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.CAData)
	pair, err := tls.X509KeyPair(c.CertData, c.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	h := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}}}
	r, err := h.Get(c.Host)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if user != "CN=bramble-admin,O=system:masters" {
		t.Errorf("the server saw %q", user)
	}

	before, _ := os.ReadFile(path)
	if err := p.WriteKubeconfig(path, "https://"+l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Error("written again for nothing")
	}
	now = now.Add(leafLife * 3 / 4)
	if err := p.WriteKubeconfig(path, "https://"+l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(path); string(after) == string(before) {
		t.Error("not renewed")
	}
}

func TestKeepKubeconfigEndsWithItsContext(t *testing.T) {
	p := open(t, t.TempDir(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.KeepKubeconfig(ctx, filepath.Join(t.TempDir(), "kubeconfig"), "https://localhost:1"); err != nil {
		t.Error(err)
	}
	if err := p.KeepKubeconfig(ctx, filepath.Join(t.TempDir(), "no", "such", "kubeconfig"), "https://localhost:1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
