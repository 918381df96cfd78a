package api

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apiserver/pkg/authentication/authenticator"
)

// connection is what is known of a client's connection, in the context of each of its requests.
type connection struct {
	net.Conn
	certified atomic.Pointer[certified]
}

// certified is whom the connection's certificate names, as verified not long ago.
type certified struct {
	response *authenticator.Response
	until    time.Time
}

type connectionKey struct{}

// maxUnsent is what the kernel takes of a connection beyond what is on its way, in bytes. Otherwise it takes megabytes, and a writer
// would not learn for minutes whether a slow client reads.
const maxUnsent = 128 << 10

func withConnection(ctx context.Context, conn net.Conn) context.Context {
	if t, ok := conn.(*tls.Conn); ok {
		if raw, ok := t.NetConn().(syscall.Conn); ok { // not a stream of a node's link
			if c, err := raw.SyscallConn(); err == nil {
				_ = c.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent) })
			}
		}
	}
	return context.WithValue(ctx, connectionKey{}, &connection{Conn: conn})
}

// oncePerConnection verifies a client's certificate at the first request of a connection and again every knownFor, not at every
// request: the certificate is the same until the connection ends, and to verify a signature costs a seventh of a create.
type oncePerConnection struct {
	authenticator.Request
}

func (a oncePerConnection) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	c, ok := r.Context().Value(connectionKey{}).(*connection)
	if !ok || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return a.Request.AuthenticateRequest(r)
	}
	now := time.Now()
	if known := c.certified.Load(); known != nil && now.Before(known.until) {
		return known.response, true, nil
	}
	response, ok, err := a.Request.AuthenticateRequest(r)
	if ok && err == nil {
		until := now.Add(knownFor)
		if end := r.TLS.PeerCertificates[0].NotAfter; end.Before(until) {
			until = end
		}
		c.certified.Store(&certified{response, until})
	}
	return response, ok, err
}
