package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Options are fixed for a Server's life.
type Options struct {
	Logger *slog.Logger
	// Enter runs f where the server's sockets are to be opened; nil: right here.
	Enter func(f func() error) error
}

// Config is what may change.
type Config struct {
	Domain    string
	Listen    netip.AddrPort // where to answer; another port is taken when it is in use (see Addr)
	Self      netip.Addr     // the address that clients know the server by
	Addresses []netip.Prefix // of pods and Services, whose reverse names are the server's
	Services  []*corev1.Service
	Endpoints []*discoveryv1.EndpointSlice
	Upstream  []string // resolvers for other names: address or address:port
}

// Bounds. Beyond them a query over UDP is dropped, as a full socket would do; clients ask again.
const (
	maxQueries     = 512 // being answered at once
	maxConnections = 128 // of TCP
	maxForwarded   = 128 // being asked of other resolvers at once; beyond: SERVFAIL
	maxWaiting     = 256 // waiting for what is being asked, which leaves room for the cluster's own names
)

// Server is the node's name server.
type Server struct {
	Options
	queries chan struct{}
	forward *forwarder
	shuffle func(n int, swap func(i, j int))

	mu   sync.RWMutex
	zone *zone

	listening sync.Mutex
	addr      netip.AddrPort // asked for
	actual    netip.AddrPort
	servers   []*dns.Server
	wg        sync.WaitGroup
}

// Open makes a Server, which listens from the first Set on.
func Open(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Enter == nil {
		o.Enter = func(f func() error) error { return f() }
	}
	return &Server{Options: o, zone: newZone(), queries: make(chan struct{}, maxQueries), forward: newForwarder(o.Enter), shuffle: rand.Shuffle}
}

// Set makes the server answer by the configuration.
func (s *Server) Set(ctx context.Context, c Config) error {
	s.mu.Lock()
	s.zone.update(c)
	s.mu.Unlock()
	s.listening.Lock()
	defer s.listening.Unlock()
	err := s.listen(c.Listen)
	s.forward.set(c.Upstream, s.actual, c.Self)
	return err
}

// Addr is where the server listens; not valid while it does not.
func (s *Server) Addr() netip.AddrPort {
	s.listening.Lock()
	defer s.listening.Unlock()
	return s.actual
}

// Close stops the server.
func (s *Server) Close() error {
	s.listening.Lock()
	defer s.listening.Unlock()
	return s.stop()
}

func (s *Server) listen(at netip.AddrPort) error {
	if at == s.addr && len(s.servers) > 0 {
		return nil
	}
	err := s.stop()
	if err != nil {
		s.Logger.Warn("stop the name server", "err", err)
	}
	pc, l, err := s.sockets(at)
	if err != nil && errors.Is(err, unix.EADDRINUSE) {
		// A resolver of the host holds port 53 of every address. Ours goes elsewhere, and the rules
		// for Services lead to it.
		s.Logger.Warn("the name server's port is in use, taking another one", "addr", at.String(), "err", err)
		pc, l, err = s.sockets(netip.AddrPortFrom(at.Addr(), 0))
	}
	if err != nil {
		return fmt.Errorf("listen for DNS on %s: %w", at, err)
	}
	s.addr = at
	s.actual = l.Addr().(*net.TCPAddr).AddrPort()
	h := dns.HandlerFunc(s.serve)
	s.start(&dns.Server{PacketConn: pc, Handler: h, UDPSize: maxUDP})
	s.start(&dns.Server{Listener: limit(l, maxConnections), Handler: h, IdleTimeout: func() time.Duration { return 10 * time.Second }})
	return nil
}

// sockets opens both at once, on one port.
func (s *Server) sockets(at netip.AddrPort) (pc net.PacketConn, l net.Listener, err error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var serr error
		err := c.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		return errors.Join(err, serr)
	}}
	err = s.Enter(func() error {
		var err error
		if l, err = lc.Listen(context.Background(), "tcp4", at.String()); err != nil {
			return err
		}
		at = l.Addr().(*net.TCPAddr).AddrPort()
		if pc, err = lc.ListenPacket(context.Background(), "udp4", at.String()); err != nil {
			l.Close()
		}
		return err
	})
	return pc, l, err
}

func (s *Server) start(d *dns.Server) {
	started := make(chan struct{})
	d.NotifyStartedFunc = func() { close(started) }
	s.servers = append(s.servers, d)
	at := s.actual.String()
	failed := make(chan struct{})
	s.wg.Go(func() {
		defer close(failed)
		if err := d.ActivateAndServe(); err != nil && !errors.Is(err, net.ErrClosed) {
			s.Logger.Error("the name server ended", "addr", at, "err", err)
		}
	})
	select {
	case <-started: // Shutdown must not come before
	case <-failed:
	}
}

func (s *Server) stop() error {
	var errs []error
	for _, d := range s.servers {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		errs = append(errs, d.ShutdownContext(ctx))
		cancel()
	}
	s.servers, s.addr, s.actual = nil, netip.AddrPort{}, netip.AddrPort{}
	s.wg.Wait()
	return errors.Join(errs...)
}

// limited is a listener with a bounded number of open connections; more wait in the kernel's queue.
type limited struct {
	net.Listener
	slots chan struct{}
	done  chan struct{}
	once  sync.Once
}

func limit(l net.Listener, n int) net.Listener {
	return &limited{Listener: l, slots: make(chan struct{}, n), done: make(chan struct{})}
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &counted{Conn: c, release: func() { <-l.slots }}, nil
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

type counted struct {
	net.Conn
	once    sync.Once
	release func()
}

func (c *counted) Close() error {
	c.once.Do(c.release)
	return c.Conn.Close()
}
