package ingress

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	dialTimeout = 2 * time.Second
	// shunned is how long an endpoint that could not be reached is asked only when there is no other.
	shunned = 5 * time.Second
)

// proxy answers requests by the table.
type proxy struct {
	table   atomic.Pointer[Table]
	next    atomic.Uint64
	forward *httputil.ReverseProxy
	kept    *http.Transport // keeps connections, for what may be sent again when one turns out to be closed
	fresh   *http.Transport // for everything else

	mu  sync.Mutex
	bad map[string]time.Time // endpoints that could not be reached, and until when they are shunned
}

func newProxy(log *slog.Logger) *proxy {
	p := &proxy{bad: map[string]time.Time{}}
	p.kept = &http.Transport{
		DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext, DisableCompression: true,
		MaxIdleConns: 128, MaxIdleConnsPerHost: 16, IdleConnTimeout: 20 * time.Second, ExpectContinueTimeout: time.Second,
	}
	p.fresh = p.kept.Clone()
	p.fresh.DisableKeepAlives = true
	p.forward = &httputil.ReverseProxy{
		Rewrite: rewrite, Transport: p, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if errors.Is(err, context.Canceled) || r.Context().Err() != nil {
				return // nobody listens any more
			}
			log.Debug("a backend failed", "host", r.Host, "path", r.URL.Path, "err", err)
			refuse(w, http.StatusBadGateway, "no endpoint of the service could be reached")
		},
	}
	return p
}

type endpointsKey struct{}

// rewrite is what a backend sees: what it would without us, and who asked.
func rewrite(r *httputil.ProxyRequest) {
	r.SetXForwarded() // what a client claims of itself has been removed
	r.Out.Host = r.In.Host
	r.Out.URL.Scheme, r.Out.URL.Host = "http", r.In.Host
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	if a, ok := r.In.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		r.Out.Header.Set("X-Forwarded-Port", strconv.Itoa(a.Port))
	}
	if host, _, err := net.SplitHostPort(r.In.RemoteAddr); err == nil {
		r.Out.Header.Set("X-Real-Ip", host)
	}
}

func refuse(w http.ResponseWriter, code int, text string) {
	http.Error(w, strconv.Itoa(code)+" "+http.StatusText(code)+": "+text, code)
}

// ServeHTTP answers a request.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t := p.table.Load()
	host := normalHost(r.Host)
	route := t.route(host, r.URL.Path)
	switch {
	case route == nil:
		refuse(w, http.StatusNotFound, "no Ingress serves this host and path")
		return
	case route.Secure && r.TLS == nil:
		if t.HTTPS != 443 {
			host = net.JoinHostPort(host, strconv.Itoa(t.HTTPS))
		}
		w.Header().Set("Location", "https://"+host+r.URL.RequestURI())
		w.WriteHeader(http.StatusPermanentRedirect) // which keeps the method
		return
	case route.Backend < 0 || route.Backend >= len(t.Backends) || len(t.Backends[route.Backend]) == 0:
		refuse(w, http.StatusServiceUnavailable, "the service has no endpoint that is ready")
		return
	}
	p.forward.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), endpointsKey{}, t.Backends[route.Backend])))
}

// RoundTrip sends a request to one endpoint, and to the next when the first got nothing of it: nobody answered there. A request
// that may safely be repeated is also repeated when its connection broke before an answer (RFC 9110, section 9.2.2).
func (p *proxy) RoundTrip(r *http.Request) (*http.Response, error) {
	endpoints, _ := r.Context().Value(endpointsKey{}).([]string)
	body := r.Body
	if body != nil && body != http.NoBody {
		defer body.Close()
		r.Body = io.NopCloser(body) // an attempt that fails to connect closes it
	}
	safe := (r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions) && (body == nil || body == http.NoBody)
	via := p.fresh
	if safe {
		via = p.kept
	}
	var last error = errors.New("there is no endpoint")
	for _, e := range p.order(endpoints) {
		r.URL.Host = e
		resp, err := via.RoundTrip(r)
		if err == nil {
			return resp, nil
		}
		last = err
		var op *net.OpError
		unreached := errors.As(err, &op) && op.Op == "dial"
		if r.Context().Err() != nil || !unreached && !safe {
			break
		}
		p.shun(e)
	}
	return nil, last
}

// order is in which endpoints are tried: each request begins at another, and those that could not be reached lately come last.
func (p *proxy) order(endpoints []string) []string {
	n := len(endpoints)
	good, bad := make([]string, 0, n), []string(nil)
	start := int(p.next.Add(1) % uint64(max(n, 1)))
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range n {
		e := endpoints[(start+i)%n]
		if until, ok := p.bad[e]; ok && now.Before(until) {
			bad = append(bad, e)
			continue
		}
		delete(p.bad, e)
		good = append(good, e)
	}
	return append(good, bad...)
}

func (p *proxy) shun(endpoint string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.bad) >= 1024 {
		clear(p.bad)
	}
	p.bad[endpoint] = time.Now().Add(shunned)
}
