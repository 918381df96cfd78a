package api

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// soon is when a test gives up: it is for what hangs, and no measure.
const soon = 2 * time.Minute

// TestSilentWatches: clients that never read their watch delay nobody's, and what waits for them is bounded. All are told of 64 MB.
func TestSilentWatches(t *testing.T) {
	const changes, size = 1000, 64 << 10
	c := start(t, t.TempDir(), func(c *Config) { c.Patience = time.Hour })
	ns := c.namespace(t)
	maps := c.client.CoreV1().ConfigMaps(ns)
	m := must(maps.Create(t.Context(), configMap("much"), metav1.CreateOptions{}))(t)

	silent := c.silent(t, ns)
	var others []watch.Interface
	for range 3 {
		config := rest.CopyConfig(c.config)
		client := must(kubernetes.NewForConfig(config))(t)
		w := must(client.CoreV1().ConfigMaps(ns).Watch(t.Context(), metav1.ListOptions{ResourceVersion: m.ResourceVersion}))(t)
		defer w.Stop()
		others = append(others, w)
	}
	before := heap()
	for n := range changes {
		m.Data = map[string]string{"n": fmt.Sprint(n), "rest": strings.Repeat("x", size)}
		m = must(maps.Update(t.Context(), m, metav1.UpdateOptions{}))(t)
		for _, w := range others { // each change is seen by all before the next is made
			select {
			case e := <-w.ResultChan():
				if got, is := e.Object.(*corev1.ConfigMap); !is || got.Data["n"] != fmt.Sprint(n) {
					t.Fatalf("change %d: %s %v", n, e.Type, e.Object)
				}
			case <-time.After(soon):
				t.Fatalf("change %d is not told while others do not read", n)
			}
		}
	}
	eventually(t, "every silent watch waits for its client", func() bool { return goroutines("store.(*watcher).send") == len(silent) })
	// For each of them some events are decoded, and one is encoded; the resource's latest changes are remembered once for all; and
	// this process is also the client, which has a window of 4 MiB.
	const bound = 24 << 20
	if more := heap() - before; more > bound {
		t.Errorf("%d KiB more after %d changes of %d KiB, want at most %d", more>>10, changes, size>>10, bound>>10)
	}
}

// TestSilentWatchesAreCutOff: a watch whose client does not read ends, however it came, and so does the answer to a list.
func TestSilentWatchesAreCutOff(t *testing.T) {
	c := start(t, t.TempDir(), func(c *Config) { c.Patience = time.Second })
	ns := c.namespace(t)
	maps := c.client.CoreV1().ConfigMaps(ns)
	m := configMap("much", "rest", strings.Repeat("x", 512<<10))
	m = must(maps.Create(t.Context(), m, metav1.CreateOptions{}))(t)
	watches := goroutines("store.(*watcher).run")

	all := c.silent(t, ns)
	eventually(t, "the watches have begun", func() bool { return goroutines("store.(*watcher).run") == watches+len(all) })
	n := 0
	eventually(t, "no watch is left", func() bool {
		n++
		m.Data["n"] = fmt.Sprint(n)
		m = must(maps.Update(t.Context(), m, metav1.UpdateOptions{}))(t)
		return goroutines("store.(*watcher).run") == watches
	})
	for _, s := range all { // what was on its way is there, then it ends long before the watch's time
		if _, err := io.Copy(io.Discard, s.body); err == nil && !s.ends {
			t.Errorf("%s: the watch ended as if all had been told", s.name)
		}
	}

	for n := range 40 { // of which a list is longer than what a connection holds
		must(maps.Create(t.Context(), configMap(fmt.Sprint("m", n), "rest", strings.Repeat("x", 512<<10)), metav1.CreateOptions{}))(t)
	}
	conn := c.connection(t, "http/1.1")
	fmt.Fprintf(conn, "GET /api/v1/namespaces/%s/configmaps HTTP/1.1\r\nHost: x\r\n\r\n", ns)
	eventually(t, "the list has begun", func() bool { return goroutines("handlers.ListResource") > 0 })
	eventually(t, "the list is given up", func() bool { return goroutines("handlers.ListResource") == 0 })
	if _, err := io.Copy(io.Discard, conn); err == nil {
		t.Error("the list ended as if all had been sent")
	}
}

// TestSlowWatch: a client that reads less of a change in the time that a silent one has, is told all the same.
func TestSlowWatch(t *testing.T) {
	c := start(t, t.TempDir(), func(c *Config) { c.Patience = 2 * time.Second })
	ns := c.namespace(t)
	const objects, size = 8, 1000 << 10
	for n := range objects {
		must(c.client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap(fmt.Sprint("m", n), "rest", strings.Repeat("x", size)), metav1.CreateOptions{}))(t)
	}
	for _, protocol := range []string{"http/1.1", "a WebSocket"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			conn := c.connection(t, "http/1.1")
			upgrade := ""
			if protocol == "a WebSocket" {
				upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nOrigin: https://x\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
			}
			fmt.Fprintf(conn, "GET /api/v1/namespaces/%s/configmaps?watch=1&resourceVersion=0 HTTP/1.1\r\nHost: x\r\n%s\r\n", ns, upgrade)
			began, buf := time.Now(), make([]byte, 64<<10)
			for read := 0; read < objects*size; {
				n, err := conn.Read(buf)
				if err != nil {
					t.Fatalf("cut off after %d bytes and %v, though it read: %v", read, time.Since(began), err)
				}
				read += n
				time.Sleep(time.Duration(n) * time.Second / (400 << 10)) // 400 KB a second: 2.5 seconds a change
			}
		})
	}
}

// TestRestOfABody: a body that never comes whole holds its connection no longer than its request.
func TestRestOfABody(t *testing.T) {
	c, _ := shared(t)
	for _, tt := range []struct{ name, request, want string }{
		{"one that is refused unread", "POST /api/v1/nothings HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", "HTTP/1.1 404"},
		{"a chunk that is broken off", "POST /nothing HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{", "HTTP/1.1 404"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // each waits
			conn := c.connection(t, "http/1.1")
			io.WriteString(conn, tt.request)
			said, err := io.ReadAll(conn) // the server ends the connection: the client does not
			if err != nil || !strings.HasPrefix(string(said), tt.want) {
				t.Errorf("%q %v, want %s", said, err, tt.want)
			}
		})
	}
}

// silent is a watch of ConfigMaps whose client does not read.
type silent struct {
	name string
	body io.Reader
	ends bool // its end looks like any other
}

// silent begins one watch in each way that there is.
func (c *cluster) silent(t *testing.T, ns string) (all []silent) {
	t.Helper()
	path := "/api/v1/namespaces/" + ns + "/configmaps?watch=1&timeoutSeconds=36000"
	plain := c.connection(t, "http/1.1")
	fmt.Fprintf(plain, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	socket := c.connection(t, "http/1.1")
	fmt.Fprintf(socket, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nOrigin: https://x\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", path)
	// Of a stream of HTTP/2 the window is what is not read; its connection goes on, also with what others ask.
	client := must(rest.HTTPClientFor(c.config))(t)
	r := must(http.NewRequestWithContext(t.Context(), http.MethodGet, c.url+path, nil))(t)
	res := must(client.Do(r))(t)
	t.Cleanup(func() { res.Body.Close() })
	if res.ProtoMajor != 2 {
		t.Fatalf("%s, want HTTP/2", res.Proto)
	}
	return []silent{{"HTTP/1.1", plain, false}, {"a WebSocket", socket, true}, {"HTTP/2", res.Body, false}}
}

// connection is the administrator's, by TLS, with little room for what is not read.
func (c *cluster) connection(t *testing.T, protocols ...string) *tls.Conn {
	t.Helper()
	config := must(rest.TLSConfigFor(c.config))(t)
	config.NextProtos = protocols
	raw := must((&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(c.url, "https://")))(t)
	if err := raw.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	config.ServerName = "localhost"
	conn := tls.Client(raw, config)
	t.Cleanup(func() { conn.Close() })
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return conn
}

// goroutines counts those of this process in whose stack a function is.
func goroutines(function string) int {
	var all bytes.Buffer
	pprof.Lookup("goroutine").WriteTo(&all, 2)
	n := 0
	for one := range strings.SplitSeq(all.String(), "\n\n") {
		if strings.Contains(one, function) {
			n++
		}
	}
	return n
}

// heap is what is in use, in bytes, after what is not has been collected.
func heap() int {
	for range 3 { // what has a finalizer, and what pools keep, goes with a later round
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
