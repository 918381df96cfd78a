package api

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"

	"bramble.dev/link"
	"bramble.dev/server/auth"
)

// Of several servers one has the links to the nodes. The others ask it for a connection to what lies behind a link: a request to its
// API that becomes a stream. Only the administrators' group may do that, which servers, who have the authority's key, put themselves in.
const (
	dialPath     = "/bramble.dev/dial"
	dialProtocol = "bramble-stream"
	dialTimeout  = 10 * time.Second
)

// dial answers another server.
func (s *Server) dial(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), dialProtocol) {
		http.Error(w, "want Upgrade: "+dialProtocol, http.StatusUpgradeRequired)
		return
	}
	if !s.config.leads() { // nor does it ask the one that does: two that each take the other for it would ask for ever
		http.Error(w, "this server does not lead", http.StatusServiceUnavailable)
		return
	}
	ask := r.URL.Query()
	far, err := s.config.dial(r.Context(), ask.Get("node"), ask.Get("address"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer far.Close()
	near, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer near.Close()
	defer context.AfterFunc(r.Context(), func() { near.Close(); far.Close() })()
	if _, err := fmt.Fprintf(near, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", dialProtocol); err != nil {
		return
	}
	link.Splice(&stream{near, buffered.Reader}, &watched{far, func() { abort(near) }})
}

// abort ends a connection so that its other side gets an error and no end: TLS takes one without a farewell for an end, TCP a reset for
// none.
func abort(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}

// dial connects to a node's kubelet API, or, where an address is given, to that.
func (c *Config) dial(ctx context.Context, node, address string) (net.Conn, error) {
	switch {
	case node != "" && address == "" && c.NodeDialer != nil:
		return c.NodeDialer(ctx, node)
	case node == "" && address != "" && c.PodDialer != nil:
		return c.PodDialer(ctx, "tcp", address)
	}
	return nil, errors.New("want a node, or an address")
}

// DialThrough asks the server whose API is at host (host:port) for a connection to a node's kubelet API, or to an address that it
// reaches.
func DialThrough(ctx context.Context, pki *auth.PKI, host, node, address string) (net.Conn, error) {
	conn, err := dialThrough(ctx, pki, host, url.Values{"node": {node}, "address": {address}})
	if err != nil {
		return nil, fmt.Errorf("through the server at %s: %w", host, err)
	}
	return conn, nil
}

func dialThrough(ctx context.Context, pki *auth.PKI, host string, ask url.Values) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	certPEM, keyPEM, err := pki.ClientCertificate("system:bramble:server", user.SystemPrivilegedGroup)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	// The server may have moved: what is believed is its certificate for the name that all have.
	d := tls.Dialer{Config: &tls.Config{ServerName: "kubernetes.default", RootCAs: pki.CAPool(), Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}}
	conn, err := d.DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
	upgraded, err := upgrade(ctx, conn, host, ask)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return upgraded, nil
}

func upgrade(ctx context.Context, conn net.Conn, host string, ask url.Values) (net.Conn, error) {
	if until, ok := ctx.Deadline(); ok {
		conn.SetDeadline(until)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+dialPath+"?"+ask.Encode(), nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", dialProtocol)
	if err := r.Write(conn); err != nil {
		return nil, err
	}
	buffered := bufio.NewReader(conn)
	answer, err := http.ReadResponse(buffered, r)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		defer answer.Body.Close()
		said, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
		return nil, fmt.Errorf("%s: %s", answer.Status, strings.TrimSpace(string(said)))
	}
	conn.SetDeadline(time.Time{})
	return &stream{Conn: conn, in: buffered}, nil
}

// stream is a connection of which the first bytes may have been read already.
type stream struct {
	net.Conn
	in *bufio.Reader
}

func (s *stream) Read(b []byte) (int, error) { return s.in.Read(b) }

// CloseWrite says that no more comes.
func (s *stream) CloseWrite() error { return closeWrite(s.Conn) }
