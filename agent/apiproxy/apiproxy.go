// Package apiproxy is where a pod's call to kubernetes.default ends on its node: it passes the
// connection on to the server, straight where there is a way, else over the link.
//
// Invariant: it copies bytes and sees no plain text, for TLS is between the pod and the server; at
// most 256 connections are open, further ones wait to be accepted; one pod has at most 64, and what it opens beyond
// that is closed at once, so that it cannot keep all others from the API.
//
//	p := apiproxy.New(apiproxy.Config{Servers: servers, Dial: uplink.Dial, Logger: log})
//	go p.Serve(ctx, listener)
package apiproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"bramble.dev/link"
)

// Config says where the server is.
type Config struct {
	// Servers are the URLs of the API, as last told.
	Servers func() []string
	// Dial opens a stream to the API over the link.
	Dial   func(ctx context.Context, target string) (net.Conn, error)
	Logger *slog.Logger
}

const (
	maxConnections = 256
	maxOfOne       = 64 // a client of Kubernetes' needs one or two
	directTimeout  = 3 * time.Second
	// avoidDirect is how long the straight way is not tried again after it failed: behind a NAT every
	// call would wait for its timeout first.
	avoidDirect = time.Minute
)

// Proxy passes connections on.
type Proxy struct {
	Config
	slots chan struct{}
	avoid atomic.Int64 // until then, in Unix nanoseconds

	mu   sync.Mutex
	open map[string]int // connections by the pod's address
}

// New makes a proxy.
func New(c Config) *Proxy {
	return &Proxy{Config: c, slots: make(chan struct{}, maxConnections), open: map[string]int{}}
}

// Connect opens a connection to the API, on the way that works.
func (p *Proxy) Connect(ctx context.Context) (net.Conn, error) {
	var errs []error
	if time.Now().UnixNano() >= p.avoid.Load() {
		for _, server := range p.Servers() {
			conn, err := direct(ctx, server)
			if err == nil {
				return conn, nil
			}
			errs = append(errs, err)
		}
		if len(errs) > 0 {
			p.avoid.Store(time.Now().Add(avoidDirect).UnixNano())
		}
	}
	conn, err := p.Dial(ctx, link.TargetAPI)
	if err == nil {
		return conn, nil
	}
	return nil, fmt.Errorf("connect to the API: %w", errors.Join(append(errs, err)...))
}

func direct(ctx context.Context, server string) (net.Conn, error) {
	u, err := url.Parse(server)
	if err != nil {
		return nil, fmt.Errorf("server URL %q: %w", server, err)
	}
	host, port := u.Hostname(), u.Port()
	if port == "" {
		port = "443"
	}
	d := net.Dialer{Timeout: directTimeout}
	return d.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
}

// Serve accepts connections until ctx is done, and returns when all have ended.
func (p *Proxy) Serve(ctx context.Context, l net.Listener) error {
	var open sync.WaitGroup
	defer open.Wait()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := l.Accept()
		if err != nil {
			<-p.slots
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			p.Logger.Warn("a pod's call to the API could not be accepted", "err", err)
			select {
			case <-time.After(100 * time.Millisecond): // out of descriptors, likely
			case <-ctx.Done():
			}
			continue
		}
		pod := sourceOf(conn)
		if !p.enter(pod) {
			<-p.slots
			conn.Close()
			p.Logger.Debug("a pod has too many connections to the API", "pod", pod)
			continue
		}
		open.Go(func() {
			defer func() { p.leave(pod); <-p.slots }()
			p.pass(ctx, conn)
		})
	}
}

func sourceOf(conn net.Conn) string {
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		return conn.RemoteAddr().String()
	}
	return host
}

// enter counts one more connection of a pod, unless it has as many as one may.
func (p *Proxy) enter(pod string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[pod] >= maxOfOne {
		return false
	}
	p.open[pod]++
	return true
}

func (p *Proxy) leave(pod string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[pod]--; p.open[pod] == 0 {
		delete(p.open, pod)
	}
}

func (p *Proxy) pass(ctx context.Context, pod net.Conn) {
	defer pod.Close()
	server, err := p.Connect(ctx)
	if err != nil {
		p.Logger.Debug("a pod's call to the API failed", "pod", pod.RemoteAddr().String(), "err", err)
		return
	}
	defer server.Close()
	defer context.AfterFunc(ctx, func() {
		pod.Close()
		server.Close()
	})()
	link.Splice(pod, server)
}
