package dispatch

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"k8s.io/client-go/kubernetes"

	"bramble.dev/link"
	"bramble.dev/server/broker"
	"bramble.dev/server/cache"
)

// Identity is the part of the cluster's PKI that is needed here; *auth.PKI has most of it.
type Identity interface {
	CACertificate() *x509.Certificate
	CAPool() *x509.CertPool
	CAHash() string
	SignNode(name string, pub crypto.PublicKey) (certDER []byte, err error)
}

// Config is what a dispatcher works with.
type Config struct {
	Caches    *cache.Set
	Client    kubernetes.Interface
	Transport broker.Transport
	Identity  Identity
	// LinkKey returns the server's link key and its certificate for link.ServerName (see LinkKey).
	LinkKey func() (certificate []byte, key crypto.Signer, err error)
	// CheckToken says whether a node may join with a token (bramble1.<hash>.<id>.<secret>).
	CheckToken func(ctx context.Context, token string) error
	// DialAPI connects to the server's own API, for streams that agents open.
	DialAPI func(ctx context.Context) (net.Conn, error)
	// Cluster is item cluster/config of the shared set. Its ID and Incarnation must be set.
	Cluster link.ClusterConfig
	Logger  *slog.Logger
}

// Bounds of a dispatcher.
const (
	intakeQueues = 4
	intakeDepth  = 256       // frames that wait in one queue; more are dropped
	writes       = 64        // reports that are being written at a time; others wait in turn, without the memory that a write takes
	frames       = 16        // that are being made at a time: what all nodes are told of at once is as large a message for each
	admissions   = 16        // agents that are being admitted at a time; others repeat their frame
	forgetAfter  = time.Hour // of absence
)

// Times, which tests shorten.
var (
	scanInterval = 5 * time.Second
	willTime     = 10 * time.Second // that a node has to answer after its last will
)

// Dispatcher is the server's end of the link to all nodes.
type Dispatcher struct {
	cfg       Config
	log       *slog.Logger
	topics    link.Topics
	responder *link.Responder
	pace      *rate.Limiter // of handshakes, which anybody can begin and which cost a signature
	started   time.Time
	seed      maphash.Seed

	intake   [intakeQueues]chan message
	admitted chan struct{} // a token for each admission under way
	writing  turns         // for writes of reports
	making   turns         // for frames
	naming   [32]sync.Mutex

	state    state
	contents *contents
	shared   *shared
	dirty    dirtySet
	workers  sync.WaitGroup

	mu       sync.Mutex
	nodes    map[string]*node
	greeters map[string]*greeter
	watchers []chan string
	held     map[string]time.Time // when a node was last given a sign of life; never forgotten
}

type message struct {
	place, leaf string
	payload     []byte
}

// New makes a dispatcher.
func New(cfg Config) (*Dispatcher, error) {
	if cfg.Cluster.ID == "" {
		cfg.Cluster.ID = link.ClusterID(cfg.Identity.CAHash())
	}
	d := &Dispatcher{
		cfg: cfg, log: cfg.Logger, started: time.Now(), seed: maphash.MakeSeed(),
		topics:   link.Topics{Cluster: link.ClusterID(cfg.Identity.CAHash())},
		admitted: make(chan struct{}, admissions), writing: make(turns, writes), making: make(turns, frames),
		nodes: map[string]*node{}, greeters: map[string]*greeter{}, held: map[string]time.Time{},
		pace: rate.NewLimiter(400, 800),
	}
	d.dirty.wake = make(chan struct{}, 1)
	d.responder = link.NewResponder(link.ResponderConfig{
		Cluster: d.topics.Cluster, Roots: cfg.Identity.CAPool(), CA: cfg.Identity.CACertificate().Raw,
		Incarnation: cfg.Cluster.Incarnation, LinkKey: cfg.LinkKey,
	})
	d.contents = newContents(cfg.Client, cfg.Caches, func(node string) { d.dirty.add(nodeKey(node)) })
	d.state = state{cfg.Caches, d.contents}
	for i := range d.intake {
		d.intake[i] = make(chan message, intakeDepth)
	}
	var err error
	if d.shared, err = newShared(cfg.Caches, cfg.Cluster, cfg.Logger); err != nil {
		return nil, fmt.Errorf("dispatch: %w", err)
	}
	d.cfg.Transport.Receive(d.receive)
	return d, nil
}

// receive is called by the transport; it only enqueues.
func (d *Dispatcher) receive(topic string, payload []byte) {
	place, leaf, ok := d.topics.Parse(topic)
	if !ok || len(payload) > link.MaxFrame {
		return
	}
	q := d.intake[maphash.String(d.seed, place)%intakeQueues]
	select {
	case q <- message{place, leaf, payload}:
	default: // lost, as the transport may lose any
	}
}

// Run serves nodes until ctx is done.
func (d *Dispatcher) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer d.workers.Wait()
	defer cancel()
	if err := d.synced(ctx); err != nil {
		return err
	}
	stop := d.watch()
	defer stop()
	// No node is served before the shared sets are whole: it would be told that Services are gone.
	d.deriveDirty(ctx)
	d.workers.Go(func() { d.derive(ctx) })
	for _, q := range d.intake {
		d.workers.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case m := <-q:
					d.handle(ctx, m)
				}
			}
		})
	}
	d.workers.Go(func() { d.scan(ctx) })
	d.workers.Go(func() { d.keepLeases(ctx) })
	err := d.cfg.Transport.Run(ctx)
	cancel()
	d.endAll()
	return err
}

func (d *Dispatcher) handle(ctx context.Context, m message) {
	now := time.Now()
	name, isNode := link.NodeOf(m.place)
	if m.leaf == "gone" {
		if n := d.node(name); n != nil {
			n.lastWill(now)
		}
		return
	}
	if number, ok := link.SessionOf(m.payload); ok {
		n := d.node(name)
		if !isNode || n == nil || !n.receive(number, m.payload, now) {
			d.publish(m.place, link.Reject(link.RejectSession, number))
		}
		return
	}
	if !d.pace.Allow() {
		return // an honest agent tries again
	}
	reply, agent, err := d.responder.Receive(m.place, m.payload, now)
	switch {
	case err != nil:
		d.log.Debug("frame of no use", "place", m.place, "err", err)
	case reply != nil:
		d.publish(m.place, reply)
	case agent != nil:
		select {
		case d.admitted <- struct{}{}:
			d.workers.Go(func() {
				defer func() { <-d.admitted }()
				d.admit(ctx, m.place, agent)
			})
		default:
			d.responder.Again(agent)
			d.publish(m.place, link.Reject(link.RejectBusy, 0))
		}
	default:
		d.greetAgain(m.place, now)
	}
}

func (d *Dispatcher) publish(place string, frame []byte) {
	if err := d.cfg.Transport.Publish(d.topics.Down(place), frame); err != nil {
		d.log.Debug("frame lost", "place", place, "err", err)
	}
}

func (d *Dispatcher) node(name string) *node {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.nodes[name]
}

func (d *Dispatcher) all() []*node {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]*node, 0, len(d.nodes))
	for _, n := range d.nodes {
		all = append(all, n)
	}
	return all
}

func (d *Dispatcher) endAll() {
	for _, n := range d.all() {
		n.end()
	}
}

// ErrOffline is the error of DialNode for a node that is not connected.
var ErrOffline = errors.New("the node is not connected")

// DialNode opens a stream to a target at a node: link.TargetKubelet, or link.TargetTCP and an address.
func (d *Dispatcher) DialNode(_ context.Context, name, target string) (net.Conn, error) {
	n := d.node(name)
	if n == nil {
		return nil, fmt.Errorf("node %s: %w", name, ErrOffline)
	}
	conn, err := n.dial(target)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", name, err)
	}
	return conn, nil
}

// Online tells whether a node is connected, and since when that is so; for a node that was never
// heard, since the server was started.
func (d *Dispatcher) Online(name string) (online bool, since time.Time) {
	n := d.node(name)
	if n == nil {
		return false, d.started
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.online, n.since
}

// Held is when a node may last have been given a sign of life, on this process' own clock, which nobody sets. A process
// before this one may have given it one up to its end.
func (d *Dispatcher) Held(name string) time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at, ok := d.held[name]; ok {
		return at
	}
	return d.started
}

func (d *Dispatcher) hold(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held[name] = time.Now()
}

// changesDepth bounds the names that wait in a channel of Changes. At the bound a name is lost; who
// listens looks at all nodes from time to time anyway.
const changesDepth = 4096

// Changes gives the names of nodes whose presence changed, to one reader a call.
func (d *Dispatcher) Changes() <-chan string {
	c := make(chan string, changesDepth)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watchers = append(d.watchers, c)
	return c
}

func (d *Dispatcher) notify(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.watchers {
		select {
		case c <- name:
		default:
		}
	}
}
