package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
)

// TestTenThousandMalformedRequests: whatever comes, by HTTP or below it, the server answers what is asked rightly, and has afterwards
// the goroutines, the connections and about the memory that it had before.
func TestTenThousandMalformedRequests(t *testing.T) {
	var conns *counting
	c := start(t, t.TempDir(), func(c *Config) {
		conns = &counting{Listener: c.Listener}
		c.Listener = conns
	})
	m := &mutator{c: c, ns: c.namespace(t)}
	m.all(t, 1, 10) // what is made once and kept is made now
	m.rest(t, conns)
	goroutines, memory := runtime.NumGoroutine(), heap()

	m.all(t, 2, 100)
	m.rest(t, conns)
	eventually(t, "no goroutine is left of them", func() bool { return runtime.NumGoroutine() <= goroutines })
	const bound = 8 << 20
	if more := heap() - memory; more > bound {
		t.Errorf("%d KiB more than before, want at most %d", more>>10, bound>>10)
	}
	if sent, refused := m.sent.Load(), m.refused.Load(); sent < 10_000 || refused < sent/2 {
		t.Errorf("%d requests were sent, of which %d were refused: they are no test", sent, refused)
	}
}

// counting knows how many connections of a listener are open.
type counting struct {
	net.Listener
	open atomic.Int64
}

func (l *counting) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.open.Add(1)
	return &countedConn{Conn: conn, l: l}, nil
}

// countedConn is one of them.
type countedConn struct {
	net.Conn
	l    *counting
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.l.open.Add(-1) })
	return c.Conn.Close()
}

// mutator makes wrong requests of right ones.
type mutator struct {
	c             *cluster
	ns            string
	sent, refused atomic.Int64
}

// rest waits until nothing that was asked is open any more, and removes what was made: some changes leave a request right.
func (m *mutator) rest(t *testing.T, conns *counting) {
	t.Helper()
	if _, err := m.c.client.CoreV1().ConfigMaps(m.ns).Create(t.Context(), configMap("right", "k", "v"), metav1.CreateOptions{}); err != nil {
		t.Fatalf("a right request: %v", err)
	}
	w := must(m.c.client.CoreV1().ConfigMaps(m.ns).Watch(t.Context(), metav1.ListOptions{ResourceVersion: "0"}))(t)
	e, open := <-w.ResultChan()
	w.Stop()
	if !open || e.Type != "ADDED" {
		t.Fatalf("a right watch: %v", e)
	}
	background := metav1.DeletePropagationBackground
	for _, p := range places {
		path := strings.ReplaceAll(p.path, "NS", m.ns)
		if err := m.c.client.CoreV1().RESTClient().Delete().AbsPath(path).Body(&metav1.DeleteOptions{PropagationPolicy: &background}).Do(t.Context()).Error(); err != nil && !strings.Contains(err.Error(), "does not allow this method") {
			t.Fatalf("%s: %v", path, err)
		}
	}
	services := must(m.c.client.CoreV1().Services(m.ns).List(t.Context(), metav1.ListOptions{}))(t)
	for _, s := range services.Items {
		if err := m.c.client.CoreV1().Services(m.ns).Delete(t.Context(), s.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	utilnet.CloseIdleConnectionsFor(m.c.client.CoreV1().RESTClient().(*rest.RESTClient).Client.Transport)
	eventually(t, "no connection is left", func() bool { return conns.open.Load() == 0 })
}

// all sends that many times 100, side by side: net/http waits half a second with each connection that it is the one to close.
func (m *mutator) all(t *testing.T, seed uint64, each int) {
	var all sync.WaitGroup
	for n := range 100 {
		all.Go(func() { m.round(t, rand.New(rand.NewPCG(seed, uint64(n))), each) })
	}
	all.Wait()
}

// round sends that many requests, in every way by turns.
func (m *mutator) round(t *testing.T, rnd *rand.Rand, n int) {
	config := rest.CopyConfig(m.c.config)
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		t.Error(err)
		return
	}
	var clients []*http.Client
	for _, http2 := range []bool{true, false} {
		transport := &http.Transport{TLSClientConfig: tlsConfig.Clone(), ForceAttemptHTTP2: http2}
		defer transport.CloseIdleConnections()
		clients = append(clients, &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }})
	}
	var halfOpen []net.Conn
	defer func() {
		for _, conn := range halfOpen {
			conn.Close()
		}
	}()
	for i := range n {
		m.sent.Add(1)
		switch r := m.request(rnd); i % 10 {
		case 0, 1, 2, 3, 4, 5:
			m.ask(t, clients[i%2], r.mutated(rnd))
		case 6, 7: // what no client of HTTP would send
			m.raw(t, tlsConfig, "http/1.1", mangled(rnd, r.text(rnd)))
		case 8:
			m.raw(t, tlsConfig, "h2", mangled(rnd, frames(rnd, r)))
		case 9:
			conn, err := net.Dial("tcp", strings.TrimPrefix(m.c.url, "https://"))
			if err != nil {
				t.Error(err)
				return
			}
			halfOpen = append(halfOpen, conn)
			m.refused.Add(1)
			switch rnd.IntN(4) {
			case 0: // nothing comes
			case 1:
				conn.Write(mangled(rnd, []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"+strings.Repeat("x", 60)))) // a hello that is none
			case 2:
				conn.Write(r.text(rnd)) // without TLS
			case 3: // a request that is never finished
				c := tls.Client(conn, clone(tlsConfig, "http/1.1"))
				if c.HandshakeContext(t.Context()) == nil {
					text := r.text(rnd)
					c.Write(text[:rnd.IntN(len(text))])
				}
			}
		}
	}
}

func clone(config *tls.Config, protocol string) *tls.Config {
	config = config.Clone()
	config.NextProtos, config.ServerName = []string{protocol}, "localhost"
	return config
}

// wrongful is a request that a client of HTTP can send.
type wrongful struct {
	method, path, query string
	header              http.Header
	body                []byte
}

// request is a right one.
func (m *mutator) request(rnd *rand.Rand) wrongful {
	p := places[rnd.IntN(len(places))]
	path := strings.ReplaceAll(p.path, "NS", m.ns)
	r := wrongful{method: http.MethodPost, path: path, header: http.Header{"Content-Type": {"application/yaml"}}, body: []byte(p.object)}
	switch rnd.IntN(6) {
	case 0:
		r.method, r.query, r.body, r.header = http.MethodGet, "limit=5&labelSelector=x%3Dz&resourceVersion=0&resourceVersionMatch=NotOlderThan", nil, http.Header{"Accept": {"application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}}
	case 1:
		r.method, r.path, r.body, r.header = http.MethodPatch, path+"/a", []byte(`[{"op":"add","path":"/metadata/labels/b","value":"c"}]`), http.Header{"Content-Type": {"application/json-patch+json"}}
	case 2:
		r.method, r.path, r.query, r.header = http.MethodPatch, path+"/b", "fieldManager=m&force=true", http.Header{"Content-Type": {"application/apply-patch+yaml"}}
	case 3:
		r.method, r.path = http.MethodPut, path+"/a"
	}
	return r
}

// mutated is the request with something about it changed.
func (r wrongful) mutated(rnd *rand.Rand) wrongful {
	for range 1 + rnd.IntN(3) {
		switch rnd.IntN(7) {
		case 0:
			r.path = "/" + strings.TrimLeft(string(mangled(rnd, []byte(r.path))), "/")
		case 1:
			r.query = string(mangled(rnd, []byte(r.query+"&pretty=1&timeout=5s&dryRun=All")))
		case 2:
			r.method = []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "FOO"}[rnd.IntN(9)]
		case 3:
			name := []string{"Content-Type", "Accept", "Authorization", "Accept-Encoding", "Impersonate-User", "Content-Encoding", "If-None-Match"}[rnd.IntN(7)]
			r.header = r.header.Clone()
			if r.header == nil {
				r.header = http.Header{}
			}
			r.header.Set(name, printable(mangled(rnd, []byte("application/json;q=0.5,Bearer abcdef.0123456789abcdef"))))
		case 4:
			r.header = r.header.Clone()
			if r.header == nil {
				r.header = http.Header{}
			}
			r.header.Set("X-Long", strings.Repeat("x", 1<<rnd.IntN(21)))
		default:
			r.body = mangled(rnd, r.body)
		}
	}
	return r
}

func printable(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, string(b))
}

// ask sends a request and reads its answer, which says what was wrong: the server is at fault for none of them.
func (m *mutator) ask(t *testing.T, client *http.Client, q wrongful) {
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, q.method, m.c.url, bytes.NewReader(q.body))
	if err != nil {
		t.Error(err)
		return
	}
	r.URL.Path, r.URL.RawQuery, r.Header = q.path, printableQuery(q.query), q.header
	if r.Header == nil {
		r.Header = http.Header{}
	}
	res, err := client.Do(r)
	if err != nil {
		m.refused.Add(1) // too long a header, over HTTP/2, or more than was said
		if ctx.Err() != nil {
			t.Errorf("%s %q is not answered", q.method, q.path)
		}
		return
	}
	defer res.Body.Close()
	if info, err := requestInfo.NewRequestInfo(r); err == nil && res.StatusCode == 200 && longRunning(r, info) {
		return // it became a watch
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if res.StatusCode >= 400 {
		m.refused.Add(1)
	}
	if res.StatusCode >= 500 && !upstreamsToo(answer{res.StatusCode, res.Header, string(body)}, q.header) {
		t.Errorf("%s %q ? %q %v %.300q: %d %.500s %v", q.method, q.path, q.query, q.header, q.body, res.StatusCode, body, err)
	}
}

func printableQuery(q string) string { return strings.ReplaceAll(printable([]byte(q)), " ", "+") }

// raw sends bytes over TLS and reads until the server ends the connection, which it has to when nothing more comes.
func (m *mutator) raw(t *testing.T, config *tls.Config, protocol string, text []byte) {
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	conn, err := (&tls.Dialer{Config: clone(config, protocol)}).DialContext(ctx, "tcp", strings.TrimPrefix(m.c.url, "https://"))
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	go func() { // it may answer, and stop to read, before all is sent
		conn.Write(text)
		conn.(*tls.Conn).CloseWrite()
	}()
	said, _ := io.ReadAll(io.LimitReader(conn, 8<<20))
	if ctx.Err() != nil {
		t.Errorf("%s: %.300q is not answered, and not ended: %.300q", protocol, text, said)
	}
	if protocol == "h2" || !bytes.HasPrefix(said, []byte("HTTP/1.1 2")) {
		m.refused.Add(1)
	}
	// 504 is for who hangs up while he is answered, 501 and 505 are net/http's.
	if bytes.HasPrefix(said, []byte("HTTP/1.1 5")) && !bytes.HasPrefix(said, []byte("HTTP/1.1 501 Not Implemented\r\n")) && !bytes.HasPrefix(said, []byte("HTTP/1.1 504 ")) && !bytes.HasPrefix(said, []byte("HTTP/1.1 505 ")) && !bytes.Contains(said, []byte(`"code":500`)) {
		t.Errorf("%.300q: %.500s", text, said)
	}
}

// text is the request as HTTP/1.1 writes it, with its body framed in one of the ways that servers have been led astray with.
func (r wrongful) text(rnd *rand.Rand) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s?%s HTTP/1.1\r\nHost: x\r\n", r.method, r.path, r.query)
	for k, v := range r.header {
		fmt.Fprintf(&b, "%s: %s\r\n", k, strings.Join(v, ","))
	}
	n := len(r.body)
	switch rnd.IntN(9) {
	case 0:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", n, r.body)
	case 1:
		fmt.Fprintf(&b, "Content-Length: %d\r\nContent-Length: %d\r\n\r\n%s", n, n+1, r.body)
	case 2:
		fmt.Fprintf(&b, "Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", n, n, r.body)
	case 3:
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%x;%s\r\n%s\r\n0\r\nTrailer: x\r\n\r\n", n, strings.Repeat("e", rnd.IntN(9000)), r.body)
	case 4:
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n%s", r.body)
	case 5:
		fmt.Fprintf(&b, "Transfer-Encoding: gzip, chunked\r\n\r\n-1\r\n%s", r.body)
	case 6:
		fmt.Fprintf(&b, "Content-Length: %d\r\nExpect: 100-continue\r\n\r\n%s", 1<<40, r.body)
	case 7:
		fmt.Fprintf(&b, "X: %s\r\n\r\n", strings.Repeat("x", rnd.IntN(3<<20)))
	case 8:
		fmt.Fprintf(&b, "%s\r\n%s", strings.Repeat("A: b\r\n", rnd.IntN(20000)), r.body)
	}
	return b.Bytes()
}

// frames are those of a connection of HTTP/2, which begin as they should.
func frames(rnd *rand.Rand, r wrongful) []byte {
	b := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	for range rnd.IntN(8) {
		payload := mangled(rnd, []byte(r.path))
		payload = payload[:min(len(payload), 64)]
		b = append(b, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), byte(rnd.IntN(11)), byte(rnd.IntN(256)), 0, 0, 0, byte(rnd.IntN(5)))
		b = append(b, payload...)
	}
	return b
}

// mangled is text with some of it changed, missing, repeated or added.
func mangled(rnd *rand.Rand, text []byte) []byte {
	b := bytes.Clone(text)
	for range 1 + rnd.IntN(4) {
		if len(b) == 0 {
			return []byte{byte(rnd.IntN(256))}
		}
		at := rnd.IntN(len(b))
		end := min(len(b), at+1+rnd.IntN(16))
		switch rnd.IntN(7) {
		case 0:
			b[at] ^= 1 << rnd.IntN(8)
		case 1:
			b = append(b[:at:at], b[end:]...)
		case 2:
			b = append(b[:end:end], append(bytes.Repeat(b[at:end], 1+rnd.IntN(50)), b[end:]...)...)
		case 3:
			b = b[:at]
		case 4:
			b = append(b[:at:at], append([]byte(tricks[rnd.IntN(len(tricks))]), b[at:]...)...)
		case 5:
			b[at] = byte(rnd.IntN(256))
		case 6:
			b = append(b[:at:at], append(bytes.Clone(text), b[at:]...)...)
		}
	}
	return b
}

var tricks = []string{"\x00", "\r\n", "..", "/", "%00", "%2f", "{", "[", "\"", "null", "-1", "9999999999999999999999", "1e400", "\xff\xfe", ": ", "&a [*a]", "$patch", "\u2028", "NaN", "true", "---\n", "#", "?", "&", "="}
