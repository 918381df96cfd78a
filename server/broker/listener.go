package broker

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/listeners"
)

// tlsListener gives mochi-mqtt connections with TLS and with a deadline: without one, a client
// that says nothing would hold a connection for ever.
type tlsListener struct {
	inner  net.Listener
	config *tls.Config

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

func (l *tlsListener) ID() string              { return "mqtts" }
func (l *tlsListener) Address() string         { return l.inner.Addr().String() }
func (l *tlsListener) Protocol() string        { return "tcp" }
func (l *tlsListener) Init(*slog.Logger) error { return nil }

func (l *tlsListener) Serve(establish listeners.EstablishFn) {
	for {
		conn, err := l.inner.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(50 * time.Millisecond) // out of file descriptors, for example
			continue
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			// The link's keepalive is enough; another one costs bytes.
			_ = tcp.SetKeepAlive(false)
		}
		_ = conn.SetDeadline(time.Now().Add(handshakeTime))
		secure := tls.Server(conn, l.config)
		if !l.begin() {
			_ = conn.Close()
			return
		}
		go func() {
			defer l.wg.Done()
			_ = establish(l.ID(), secure) // its error is the client's
		}()
	}
}

func (l *tlsListener) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.wg.Add(1)
	return true
}

// Close ends the listener and its clients, and waits for them.
func (l *tlsListener) Close(closeClients listeners.CloseFn) {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	_ = l.inner.Close()
	closeClients(l.ID())
	l.wg.Wait()
}
