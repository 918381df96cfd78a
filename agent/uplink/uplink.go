// Package uplink is the agent's end of the link: one outbound connection to a broker, over which the
// node gets what it is to run, tells how that goes, and carries streams both ways.
//
// Invariants: Open needs no network, and nothing here waits for the server except Run; what Apply
// returned from is what the server is told the node has; callbacks of the MQTT library only put
// frames into a bounded queue, which drops when it is full; the private key never leaves the folder.
//
//	u, err := uplink.Open(ctx, uplink.Config{Brokers: []string{"mqtts://server:8883"}, Dir: dir, NodeName: "pi1", Token: token,
//		Load: catalog.Index, Apply: apply, Status: status, Serve: serve, Logger: log})
//	go u.Run(ctx)
//	status.Put("node", report) // a link.Set
//	u.Notify()
package uplink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"bramble.dev/link"
	"bramble.dev/link/carrier"
)

// Config is what an uplink works with.
type Config struct {
	Brokers  []string // URLs, tried in turn
	Dir      string   // holds the key, the certificates and the counter of sessions
	NodeName string
	Token    string // for the first contact only

	// Load returns a desired set as it was applied last. Values may be missing (link.NewIndex).
	Load func(set string) (*link.Set, error)
	// Apply stores changes of a desired set; they must be durable when it returns. It is called in
	// order, and again with the same changes when it failed.
	Apply func(ctx context.Context, set string, changes []link.Change) error
	// Status is what the node reports. Call Notify after a change.
	Status *link.Set
	// Serve handles a stream that the server opened, and closes it.
	Serve func(target string, conn net.Conn)

	// Floor is a time that is known to have passed, for certificates on boards whose clock does
	// not run without power; optional.
	Floor func() time.Time
	// ServerTime is told the server's time whenever it arrives; optional. It must not block.
	ServerTime func(time.Time)
	// Stamp and Held are the fence's: its time, with which the server is asked for a sign of life, and the
	// newest that it has answered (link.SessionConfig, link.Session.Held); optional. They must not block.
	Stamp func() time.Duration
	Held  func(stamp time.Duration, complete bool)
	// Connected is told when the server is heard of again; optional. It must not block.
	Connected func()
	// BrokerRoots are the authorities of a broker that is neither the server's own nor known to
	// the system; optional.
	BrokerRoots *x509.CertPool

	Logger *slog.Logger
	// Dial and Backoff replace the network and the first wait of reconnecting, for tests.
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
	Backoff time.Duration
}

// ErrNotConnected is the error of Dial while there is no connection to the server.
var ErrNotConnected = errors.New("uplink: not connected to the server")

// Uplink is the agent's end of the link.
type Uplink struct {
	cfg     Config
	log     *slog.Logger
	brokers atomic.Pointer[[]*url.URL]
	id      *identity
	indexes map[link.SetID]*link.Set // of what was applied

	wake  chan struct{} // the session may have frames to send
	moved chan struct{} // the node has another address
	work  chan struct{} // or changes to apply
	acked atomic.Pointer[func(key string, version link.Version)]

	connected atomic.Bool
	synced    [link.StatusSet + 1]atomic.Bool

	serving sync.WaitGroup // streams that the server opened

	mu      sync.Mutex
	session *link.Session
}

// Check says what is wrong with what a person gave, and touches nothing: a join that is refused here leaves nothing behind.
func Check(cfg Config) error {
	if err := link.CheckNodeName(cfg.NodeName); err != nil {
		return fmt.Errorf("--node-name: %w", err)
	}
	for _, s := range cfg.Brokers {
		if _, err := carrier.ParseURL(s); err != nil {
			return fmt.Errorf("--server: %w", err)
		}
	}
	if cfg.Token != "" {
		if _, err := parseToken(cfg.Token); err != nil {
			return err
		}
	}
	if Joined(cfg.Dir) { // what it needs is on its disk
		return nil
	}
	if cfg.Token == "" {
		return errNoToken
	}
	if len(cfg.Brokers) == 0 {
		return errors.New("this node has not joined a cluster yet and knows no server: give --server mqtts://HOST:8883")
	}
	return nil
}

// Open reads what the node knows of itself; a node that is new gets a key.
func Open(_ context.Context, cfg Config) (*Uplink, error) {
	if err := link.CheckNodeName(cfg.NodeName); err != nil {
		return nil, err
	}
	if cfg.Backoff == 0 {
		cfg.Backoff = time.Second
	}
	u := &Uplink{cfg: cfg, log: cfg.Logger, wake: make(chan struct{}, 1), moved: make(chan struct{}, 1), work: make(chan struct{}, 1), indexes: map[link.SetID]*link.Set{}}
	if err := u.SetBrokers(nil); err != nil {
		return nil, err
	}
	var err error
	if u.id, err = openIdentity(cfg.Dir, cfg.NodeName, cfg.Token); err != nil {
		return nil, err
	}
	for _, set := range []link.SetID{link.NodeSet, link.SharedSet} {
		last, err := cfg.Load(set.String())
		if err != nil {
			return nil, fmt.Errorf("uplink: last %s set: %w", set, err)
		}
		u.indexes[set] = last.Index()
	}
	return u, nil
}

// SetBrokers adds URLs of brokers that the cluster has named to the configured ones. They are used
// from the next connection on, so that a node finds a server that has moved.
func (u *Uplink) SetBrokers(more []string) error {
	var brokers []*url.URL
	seen := map[string]bool{}
	for _, s := range append(slices.Clone(u.cfg.Brokers), more...) {
		b, err := carrier.ParseURL(s)
		if err != nil {
			return err
		}
		if !seen[b.String()] {
			seen[b.String()] = true
			brokers = append(brokers, b)
		}
	}
	if len(brokers) == 0 {
		return errors.New("uplink: no broker URL")
	}
	u.brokers.Store(&brokers)
	return nil
}

// broker is the one to use for the n-th connection.
func (u *Uplink) broker(n int) *url.URL {
	brokers := *u.brokers.Load()
	return brokers[n%len(brokers)]
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Notify tells that Status changed.
func (u *Uplink) Notify() { poke(u.wake) }

// Moved says that the node has another address. A connection from the old one is dead and does not know it.
func (u *Uplink) Moved() { poke(u.moved) }

// OnAcknowledged sets what is called when the server has an item of Status. It must not block.
func (u *Uplink) OnAcknowledged(f func(key string, version link.Version)) { u.acked.Store(&f) }

// Connected reports whether the server answers.
func (u *Uplink) Connected() bool { return u.connected.Load() }

// Synced reports whether a desired set was complete once since the agent was started.
func (u *Uplink) Synced(set string) bool {
	for _, id := range []link.SetID{link.NodeSet, link.SharedSet} {
		if id.String() == set {
			return u.synced[id].Load()
		}
	}
	return false
}

func (u *Uplink) setTime(t time.Time) {
	if u.cfg.ServerTime != nil {
		u.cfg.ServerTime(t)
	}
}

// now is the time for judging certificates.
func (u *Uplink) now() time.Time {
	now := time.Now()
	if u.cfg.Floor != nil {
		if floor := u.cfg.Floor(); floor.After(now) {
			return floor
		}
	}
	return now
}

// Dial opens a stream to a target at the server; link.TargetAPI is its API.
func (u *Uplink) Dial(_ context.Context, target string) (net.Conn, error) {
	u.mu.Lock()
	s := u.session
	u.mu.Unlock()
	if s == nil || !u.connected.Load() {
		return nil, ErrNotConnected
	}
	return s.Open(target)
}

// Certificate is the node's certificate and key, for the API. It fails before the node has joined.
func (u *Uplink) Certificate() (*tls.Certificate, error) { return u.id.tlsCertificate() }

// CACertPEM is the cluster's authority; nil before the node has joined.
func (u *Uplink) CACertPEM() []byte { return u.id.caPEM() }

// Instance is the random id of this installation of the node.
func (u *Uplink) Instance() string { return u.id.instance }
