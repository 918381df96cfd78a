package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/endpoints/request"
)

// shutdownGrace is how long requests have to end when the server does.
const shutdownGrace = 5 * time.Second

// Serve answers TLS connections of a listener until ctx is done. A server may serve several listeners, such as one whose
// connections are streams of a node's link. What is being asked then is answered yet; what has no end of its own, watches and
// streams, ends at once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	certificate, err := s.certificate(l)
	if err != nil {
		return fmt.Errorf("api: %w", err)
	}
	requests, end := context.WithCancel(withStop(context.WithoutCancel(ctx), ctx))
	defer end()
	srv := &http.Server{
		Handler: s.handler, ReadHeaderTimeout: 32 * time.Second, IdleTimeout: 3 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return requests },
		ConnContext: withConnection,
		ErrorLog:    slog.NewLogLogger(quiet{s.log.Handler()}, slog.LevelDebug),
		TLSConfig: &tls.Config{
			GetCertificate: certificate, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
			// Certificates are asked for and judged by the authenticator, so that a token works beside a certificate it does not know.
			ClientAuth: tls.RequestClientCert, ClientCAs: s.config.PKI.CAPool(),
		},
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 100, MaxReceiveBufferPerStream: 256 << 10, SendPingTimeout: 30 * time.Second, PingTimeout: s.config.Patience, WriteByteTimeout: s.config.Patience},
	}
	served := make(chan error, 1)
	go func() { served <- srv.ServeTLS(l, "", "") }()
	select {
	case err := <-served:
		return fmt.Errorf("api: serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	grace, done := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer done()
	err = srv.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

type stopKey struct{}

// withStop makes stop the end of those requests below ctx that have no end of their own.
func withStop(ctx, stop context.Context) context.Context {
	return context.WithValue(ctx, stopKey{}, stop)
}

// untilStop ends long-running requests when the server stops; the others are waited for.
func untilStop(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stop, there := r.Context().Value(stopKey{}).(context.Context)
		info, known := request.RequestInfoFrom(r.Context())
		if !there || !known || !longRunning(r, info) {
			h.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(stop, cancel)()
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

// certificate is the serving certificate, for every name by which the API is reached.
func (s *Server) certificate(l net.Listener) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	names := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	ips := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback, s.config.AdvertiseAddress.AsSlice(), serviceIP(s.config.ServiceCIDR).AsSlice()}
	if a, ok := l.Addr().(*net.TCPAddr); ok && !a.IP.IsUnspecified() {
		ips = append(ips, a.IP)
	}
	for _, name := range s.config.Names {
		if ip := net.ParseIP(name); ip != nil { // of what stands in front of several servers, or leads here from outside
			ips = append(ips, ip)
		} else {
			names = append(names, name)
		}
	}
	return s.config.PKI.ServingCertificate(names, ips)
}

// quiet passes net/http's complaints about clients on at the debug level only: a port scan is not an operator's business.
type quiet struct{ slog.Handler }
