package ingress

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// dead is an address at which nobody listens.
func dead(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestProxy(t *testing.T) {
	var served atomic.Int64
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %q for=%s proto=%s host=%s", r.Method, r.Host, r.RequestURI, body, r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-Host"))
	}))
	defer app.Close()
	breaks := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		c, _, _ := w.(http.Hijacker).Hijack()
		c.Close()
	}))
	defer breaks.Close()
	good, bad := app.Listener.Addr().String(), breaks.Listener.Addr().String()
	p := newProxy(slog.New(slog.DiscardHandler))
	p.table.Store(&Table{HTTPS: 8443, Hosts: map[string][]Route{
		"a": {{Path: "/", Backend: 0}}, "retry": {{Path: "/", Backend: 1}}, "gone": {{Path: "/", Backend: 2}}, "none": {{Path: "/", Backend: 3}},
		"secure": {{Path: "/", Backend: 0, Secure: true}}, "broken": {{Path: "/", Backend: 4}}, "never": {{Path: "/", Backend: -1}},
	}, Backends: [][]string{{good}, {dead(t), dead(t), good}, {dead(t)}, {}, {bad, bad}}})
	front := httptest.NewServer(p)
	defer front.Close()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, x := range []struct {
		method, host, path, body string
		code                     int
		want                     string
		served                   int64 // how often a backend got it
	}{
		{"GET", "a", "/x?q=1;2", "", 200, `GET a /x?q=1;2 "" for=127.0.0.1 proto=http host=a`, 1},
		{"POST", "a", "/%2e/", "hello", 200, `POST a /%2e/ "hello" for=127.0.0.1`, 1},
		{"GET", "retry", "/", "", 200, "GET retry", 1},
		{"POST", "retry", "/", "hello", 200, `"hello"`, 1},
		{"GET", "gone", "/", "", 502, "no endpoint of the service", 0},
		{"GET", "none", "/", "", 503, "no endpoint that is ready", 0},
		{"GET", "never", "/", "", 503, "no endpoint that is ready", 0},
		{"GET", "other", "/", "", 404, "no Ingress serves", 0},
		{"POST", "secure", "/x?y", "", 308, "", 0},
		{"POST", "broken", "/", "once", 502, "no endpoint", 1},
		{"GET", "broken", "/", "", 502, "no endpoint", 2},
	} {
		served.Store(0)
		req, err := http.NewRequest(x.method, front.URL+x.path, strings.NewReader(x.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = x.host
		req.Header.Set("X-Forwarded-For", "6.6.6.6") // nobody is believed
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != x.code || !strings.Contains(string(body), x.want) || served.Load() != x.served {
			t.Errorf("%s %s%s: %d %q, served %d times; want %d %q, %d", x.method, x.host, x.path, resp.StatusCode, body, served.Load(), x.code, x.want, x.served)
		}
		if x.code == 308 && resp.Header.Get("Location") != "https://secure:8443/x?y" {
			t.Errorf("sent on to %s", resp.Header.Get("Location"))
		}
	}
}
