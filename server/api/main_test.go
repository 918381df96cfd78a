package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"bramble.dev/server/auth"
	"bramble.dev/server/store"
)

// cluster is a real API server on port 0 with a real store.
type cluster struct {
	*Server
	dir    string
	db     *store.DB
	pki    *auth.PKI
	url    string
	config *rest.Config // the administrator's, over the network
	client kubernetes.Interface
	stop   func() error
}

// boot starts a server on the data in dir.
func boot(dir string, change ...func(*Config)) (*cluster, error) {
	pki, err := auth.OpenPKI(filepath.Join(dir, "pki"), auth.PKIOptions{})
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	db, err := store.Open(context.Background(), store.Options{Path: filepath.Join(dir, "state.db"), Logger: log})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	config := Config{Store: db, PKI: pki, Listener: l, AdvertiseAddress: netip.MustParseAddr("192.0.2.10"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"), Logger: log}
	for _, f := range change {
		f(&config)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s, err := New(ctx, config)
	if err != nil {
		cancel()
		l.Close()
		db.Close()
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	c := &cluster{Server: s, dir: dir, db: db, pki: pki, url: "https://" + l.Addr().String()}
	c.stop = func() error {
		cancel()
		if err := <-ended; err != nil {
			return err
		}
		return db.Close()
	}
	if c.config, err = c.as("bramble-admin", "system:masters"); err != nil {
		return nil, err
	}
	c.client, err = kubernetes.NewForConfig(c.config)
	return c, err
}

// as gives a client configuration with a certificate for a user.
func (c *cluster) as(user string, groups ...string) (*rest.Config, error) {
	cert, key, err := c.pki.ClientCertificate(user, groups...)
	return &rest.Config{Host: c.url, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: c.pki.CACertPEM(), CertData: cert, KeyData: key}}, err
}

// with gives a client configuration with a token, or with nothing.
func (c *cluster) with(token string) *rest.Config {
	return &rest.Config{Host: c.url, QPS: -1, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: c.pki.CACertPEM()}}
}

func start(t *testing.T, dir string, change ...func(*Config)) *cluster {
	t.Helper()
	c, err := boot(dir, change...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.stop != nil {
			if err := c.stop(); err != nil {
				t.Errorf("stop: %v", err)
			}
		}
	})
	return c
}

// The server that most tests share, each in a namespace of its own.
var common = sync.OnceValues(func() (*cluster, error) {
	dir, err := os.MkdirTemp("", "bramble-api-")
	if err != nil {
		return nil, err
	}
	commonDir = dir
	return boot(dir)
})

var commonDir string

func TestMain(m *testing.M) {
	code := m.Run()
	if commonDir != "" {
		if c, err := common(); err == nil {
			if err := c.stop(); err != nil {
				fmt.Fprintln(os.Stderr, "stop:", err)
				code = 1
			}
		}
		os.RemoveAll(commonDir)
	}
	os.Exit(code)
}

var namespaces atomic.Int32

// shared gives the common server and a fresh namespace with its default service account.
func shared(t *testing.T) (*cluster, string) {
	t.Helper()
	c, err := common()
	if err != nil {
		t.Fatal(err)
	}
	return c, c.namespace(t)
}

func (c *cluster) namespace(t *testing.T) string {
	t.Helper()
	name := fmt.Sprintf("test-%d", namespaces.Add(1))
	must(c.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))(t)
	must(c.client.CoreV1().ServiceAccounts(name).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))(t)
	return name
}

func (c *cluster) dynamic(t *testing.T) dynamic.Interface {
	t.Helper()
	return must(dynamic.NewForConfig(c.config))(t)
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// answer is what came back for a raw request.
type answer struct {
	code   int
	header http.Header
	body   string
}

// ask sends a request as the user of a configuration; headers are "Name: value".
func ask(t *testing.T, config *rest.Config, method, path, body string, headers ...string) answer {
	t.Helper()
	h := must(rest.HTTPClientFor(config))(t)
	r := must(http.NewRequestWithContext(t.Context(), method, config.Host+path, strings.NewReader(body)))(t)
	for _, s := range headers {
		k, v, _ := strings.Cut(s, ": ")
		r.Header.Set(k, v)
	}
	res := must(h.Do(r))(t)
	defer res.Body.Close()
	return answer{res.StatusCode, res.Header, string(must(io.ReadAll(res.Body))(t))}
}

func configMap(name string, data ...string) *corev1.ConfigMap {
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{}}
	for i := 0; i+1 < len(data); i += 2 {
		m.Data[data[i]] = data[i+1]
	}
	return m
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "registry.example/c:1"}}}}
}
