package dispatch_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"bramble.dev/agent/uplink"
	"bramble.dev/link"
	"bramble.dev/server/auth"
	"bramble.dev/server/broker"
	"bramble.dev/server/cache/cachetest"
	"bramble.dev/server/dispatch"
)

// cluster is a server's end of the link over a stand-in API, and brokers of several kinds.
type cluster struct {
	t      testing.TB
	api    *cachetest.API
	client kubernetes.Interface
	pki    *auth.PKI
	token  string
	url    string
	roots  *x509.CertPool // of an outside broker
	log    *slog.Logger
	across bool // pods' packets may travel between sites

	address   string // of the embedded broker, once it has listened
	transport func() broker.Transport

	dispatcher *dispatch.Dispatcher
	stop       func()
}

// logTo writes a logger's lines to the test, as long as the test lasts.
func logTo(t testing.TB) *slog.Logger {
	w := &testWriter{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.t = nil
	})
	level := slog.LevelInfo
	if testing.Verbose() {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

type testWriter struct {
	mu sync.Mutex
	t  testing.TB
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t != nil {
		w.t.Log(string(bytes.TrimSpace(p)))
	}
	return len(p), nil
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newCluster(t testing.TB) *cluster {
	c := &cluster{t: t, api: cachetest.New(), log: logTo(t)}
	c.client = c.api.Client()
	c.pki = must[*auth.PKI](t)(auth.OpenPKI(t.TempDir(), auth.PKIOptions{}))
	c.token = must[string](t)(auth.NewJoinToken(context.Background(), c.client, time.Hour, c.pki.CAHash()))
	c.transport = c.embedded
	return c
}

// embedded makes the broker inside the server; it keeps its address over restarts.
func (c *cluster) embedded() broker.Transport {
	address := c.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	l := must[net.Listener](c.t)(net.Listen("tcp", address))
	c.address = l.Addr().String()
	c.url = "mqtts://" + c.address
	certificate := must[func(*tls.ClientHelloInfo) (*tls.Certificate, error)](c.t)(c.pki.ServingCertificate([]string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}))
	return must[broker.Transport](c.t)(broker.Embedded(broker.EmbeddedConfig{
		Listener: l, Certificate: certificate, Roots: c.pki.CAPool(), Cluster: link.ClusterID(c.pki.CAHash()), Logger: c.log,
	}))
}

// start runs a server until stop, or the end of the test.
func (c *cluster) start() {
	c.t.Helper()
	api := must[net.Listener](c.t)(net.Listen("tcp", "127.0.0.1:0"))
	go echo(api)
	key, err := dispatch.LinkKey(c.pki)
	if err != nil {
		c.t.Fatal(err)
	}
	caches := c.api.Set(c.t)
	c.dispatcher = must[*dispatch.Dispatcher](c.t)(dispatch.New(dispatch.Config{
		Caches: caches, Client: c.client, Transport: c.transport(), Identity: c.pki, LinkKey: key,
		CheckToken: func(ctx context.Context, token string) error {
			return auth.CheckJoinToken(ctx, c.client, token, c.pki.CAHash())
		},
		DialAPI: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", api.Addr().String())
		},
		Cluster: link.ClusterConfig{Incarnation: "one", Domain: "cluster.local", AcrossSites: c.across}, Logger: c.log,
	}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.dispatcher.Run(ctx) }()
	stopped := false
	c.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			c.t.Error("dispatcher:", err)
		}
		_ = api.Close()
	}
	c.t.Cleanup(c.stop)
}

// echo is the server's API in these tests: it sends back what it gets.
func echo(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
	}
}

// board is an agent without a runtime.
type board struct {
	t      testing.TB
	name   string
	dir    string
	sets   map[string]*link.Set
	status *link.Set
	u      *uplink.Uplink
	dial   func(ctx context.Context, network, address string) (net.Conn, error)
	serve  func(target string, conn net.Conn)
	floor  func() time.Time

	wires   wires
	applied atomic.Int64 // items

	mu    sync.Mutex
	acked map[string]link.Version
	stop  func() error
	ended chan error
}

func (c *cluster) board(name string) *board {
	return &board{
		t: c.t, name: name, dir: c.t.TempDir(), status: link.NewSet(), acked: map[string]link.Version{},
		sets: map[string]*link.Set{"node": link.NewSet(), "shared": link.NewSet()},
		serve: func(target string, conn net.Conn) {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		},
	}
}

func (b *board) start(c *cluster, token string) {
	b.t.Helper()
	u, err := uplink.Open(context.Background(), uplink.Config{
		Brokers: []string{c.url}, Dir: b.dir, NodeName: b.name, Token: token,
		Load: func(set string) (*link.Set, error) { return b.sets[set], nil },
		Apply: func(_ context.Context, set string, changes []link.Change) error {
			b.applied.Add(int64(len(changes)))
			for _, x := range changes {
				if x.Value == nil {
					b.sets[set].Delete(x.Key)
				} else {
					b.sets[set].Put(x.Key, bytes.Clone(x.Value))
				}
			}
			return nil
		},
		Status: b.status, Serve: func(target string, conn net.Conn) { b.serve(target, conn) },
		Logger: c.log.With("board", b.name), Dial: b.wires.dialer(b.dial), Backoff: 50 * time.Millisecond, BrokerRoots: c.roots, Floor: b.floor,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.u = u
	u.OnAcknowledged(func(key string, v link.Version) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.acked[key] = v
	})
	ctx, cancel := context.WithCancel(context.Background())
	b.ended = make(chan error, 1)
	var once sync.Once
	var result error
	go func() { b.ended <- u.Run(ctx) }()
	b.stop = func() error {
		once.Do(func() {
			cancel()
			select {
			case result = <-b.ended:
			case <-time.After(20 * time.Second):
				b.t.Error("uplink did not end")
			}
		})
		return result
	}
	b.t.Cleanup(func() { _ = b.stop() })
}

// wires are the connections of a board, so that they can be cut.
type wires struct {
	mu    sync.Mutex
	cut   bool
	conns []*wire
	// in and out are the bytes that reached and left the board.
	in, out atomic.Int64
}

type wire struct {
	net.Conn
	w    *wires
	dead atomic.Bool // nothing arrives in either direction, and nobody says so
}

func (c *wire) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for err == nil && c.dead.Load() {
		n, err = c.Conn.Read(p)
	}
	c.w.in.Add(int64(n))
	if errors.Is(err, net.ErrClosed) {
		err = io.EOF // paho takes the other for its own doing
	}
	return n, err
}

func (c *wire) Write(p []byte) (int, error) {
	if c.dead.Load() {
		return len(p), nil
	}
	n, err := c.Conn.Write(p)
	c.w.out.Add(int64(n))
	return n, err
}

func (w *wires) dialer(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(ctx context.Context, network, address string) (net.Conn, error) {
	if dial == nil {
		dial = (&net.Dialer{KeepAlive: -1}).DialContext
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		w.mu.Lock()
		cut := w.cut
		w.mu.Unlock()
		if cut {
			return nil, errors.New("the wire is cut")
		}
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c := &wire{Conn: conn, w: w}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.conns = append(w.conns, c)
		return c, nil
	}
}

// set cuts the wires, or mends them.
func (w *wires) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	if cut {
		for _, c := range w.conns {
			_ = c.Close()
		}
		w.conns = nil
	}
}

// kill makes the wires that there are lead nowhere, as those of an address that the board has no longer.
func (w *wires) kill() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		c.dead.Store(true)
	}
}

func (b *board) put(key string, value []byte) {
	b.status.Put(key, value)
	b.u.Notify()
}

// patience is for a machine that has other work: a frame that is lost costs three seconds by itself.
const patience = 2 * time.Minute

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("not in %v: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (b *board) has(set, key string) bool {
	_, ok := b.sets[set].Get(key)
	return ok
}

func (c *cluster) configMap(name string, data string) *corev1.ConfigMap {
	c.t.Helper()
	ctx := context.Background()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"data": data}}
	if out, err := c.client.CoreV1().ConfigMaps("default").Update(ctx, cm, metav1.UpdateOptions{}); err == nil {
		return out
	}
	return must[*corev1.ConfigMap](c.t)(c.client.CoreV1().ConfigMaps("default").Create(ctx, cm, metav1.CreateOptions{}))
}

// pod makes a pod on a node that names ConfigMaps.
func (c *cluster) pod(name, node string, configMaps ...string) *corev1.Pod {
	c.t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	for i, m := range configMaps {
		v := corev1.Volume{Name: fmt.Sprint("v", i)}
		v.ConfigMap = &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: m}}
		p.Spec.Volumes = append(p.Spec.Volumes, v)
	}
	return must[*corev1.Pod](c.t)(c.client.CoreV1().Pods("default").Create(context.Background(), p, metav1.CreateOptions{}))
}

func (c *cluster) service(name string) *corev1.Service {
	c.t.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.9", Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}}
	return must[*corev1.Service](c.t)(c.client.CoreV1().Services("default").Create(context.Background(), s, metav1.CreateOptions{}))
}
