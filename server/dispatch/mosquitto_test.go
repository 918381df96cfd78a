package dispatch_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"bramble.dev/link"
	"bramble.dev/server/auth"
	"bramble.dev/server/broker"
)

// mosquitto is Debian's broker as an outside broker: it belongs to somebody else, has a certificate of
// another authority, lets anybody in, and logs what it can.
type mosquitto struct {
	url   string // mqtts
	plain string // mqtt
	roots *x509.CertPool
	cmd   *exec.Cmd
	log   *safeBuffer
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) Bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.b.Bytes())
}

func freePort(t testing.TB) int {
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func startMosquitto(t testing.TB) *mosquitto {
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		t.Fatal("mosquitto is needed: apt-get install mosquitto")
	}
	dir := t.TempDir()
	other := must[*auth.PKI](t)(auth.OpenPKI(filepath.Join(dir, "pki"), auth.PKIOptions{}))
	get := must[func(*tls.ClientHelloInfo) (*tls.Certificate, error)](t)(other.ServingCertificate([]string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}))
	certificate := must[*tls.Certificate](t)(get(nil))
	key := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(certificate.PrivateKey))
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secure, plain := freePort(t), freePort(t)
	config := fmt.Sprintf("log_type all\nlog_dest stdout\nallow_anonymous true\npersistence false\nuser root\nlistener %d 127.0.0.1\ncertfile %s\nkeyfile %s\nlistener %d 127.0.0.1\n",
		secure, write("crt", "CERTIFICATE", certificate.Certificate[0]), write("key", "PRIVATE KEY", key), plain)
	if err := os.WriteFile(filepath.Join(dir, "conf"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	m := &mosquitto{url: fmt.Sprintf("mqtts://127.0.0.1:%d", secure), plain: fmt.Sprintf("mqtt://127.0.0.1:%d", plain), roots: other.CAPool(), log: &safeBuffer{}}
	m.cmd = exec.Command(path, "-c", filepath.Join(dir, "conf"), "-v")
	m.cmd.Stdout, m.cmd.Stderr = m.log, m.log
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
		if t.Failed() && testing.Verbose() {
			t.Logf("%s", m.log.Bytes())
		}
	})
	eventually(t, "mosquitto listens", func() bool {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", plain), time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return m
}

// use makes a cluster's server a client of the broker.
func (m *mosquitto) use(c *cluster) {
	c.url = m.url
	c.roots = m.roots
	c.transport = func() broker.Transport {
		return must[broker.Transport](c.t)(broker.Outside(broker.OutsideConfig{
			URL: m.url, TLS: &tls.Config{RootCAs: m.roots}, Cluster: link.ClusterID(c.pki.CAHash()), Logger: c.log,
		}))
	}
}

// overBrokers runs a test with the broker inside the server, and with mosquitto.
func overBrokers(t *testing.T, test func(t *testing.T, c *cluster)) {
	t.Run("broker=embedded", func(t *testing.T) { test(t, newCluster(t)) })
	t.Run("broker=mosquitto", func(t *testing.T) {
		c := newCluster(t)
		startMosquitto(t).use(c)
		test(t, c)
	})
}
