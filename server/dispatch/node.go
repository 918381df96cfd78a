package dispatch

import (
	"context"
	"net"
	"sync"
	"time"

	"bramble.dev/link"
)

// node is what is held of a node that has connected since the server was started.
type node struct {
	d    *Dispatcher
	name string

	deriving sync.Mutex
	needs    *derived
	reports  *link.Set // index of what was applied of the status set

	wake, work chan struct{}
	cancel     context.CancelFunc
	done       sync.WaitGroup

	mu       sync.Mutex
	instance string
	spki     []byte // the key that the session was made with
	session  *link.Session
	site     string // whose shared set the session has
	online   bool
	since    time.Time // of online
	heard    time.Time
	wanted   time.Time // when a session was last begun: it is not forgotten while that goes on
	will     time.Time
	report   *link.NodeReport  // the newest
	pods     map[string][]byte // the newest reports of pods, by key
	renew    bool              // they are to be written again
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// connect gives a node a new session; the old one ends. What the node is to have is complete
// before: otherwise it would be told that its pods are gone.
func (d *Dispatcher) connect(ctx context.Context, agent *link.Agent, greeting link.Greeting) error {
	n := d.ensure(ctx, agent.Name)
	if _, err := n.derive(ctx); err != nil {
		return err
	}
	n.mu.Lock()
	if n.instance != agent.Instance {
		// What another installation reported says nothing of this one.
		n.instance, n.report, n.pods = agent.Instance, nil, nil
		n.reports = link.NewIndex()
	}
	n.spki, n.site = agent.SPKI, d.shared.siteOf(n.name)
	old := n.session
	n.session = link.NewSession(link.SessionConfig{
		Keys: agent.Keys, Greeting: greeting,
		Sources:  map[link.SetID]*link.Set{link.NodeSet: n.needs.set, link.SharedSet: d.shared.set(n.site)},
		Replicas: map[link.SetID]*link.Set{link.StatusSet: n.reports},
		Accept:   func(st *link.Stream) { n.done.Go(func() { d.serveStream(ctx, n.name, st) }) },
		Renew:    func() { d.dirty.add(renewKey(n.name)) },
		Held:     func() { d.hold(n.name) },
		Wake:     func() { poke(n.wake); poke(n.work) },
	})
	n.mu.Unlock()
	if old != nil {
		old.End(link.ErrSessionEnded)
	}
	// What it was told before, that it should try later, must not be repeated to it.
	d.mu.Lock()
	delete(d.greeters, link.NodePlace(n.name))
	d.mu.Unlock()
	n.hear(time.Now())
	poke(n.wake)
	poke(n.work)
	return nil
}

// ensure returns what is held of a node, for a session that begins.
func (d *Dispatcher) ensure(ctx context.Context, name string) *node {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.nodes[name]
	if n == nil {
		n = &node{d: d, name: name, needs: newDerived(), reports: link.NewIndex(), wake: make(chan struct{}, 1), work: make(chan struct{}, 1)}
		n.since = d.started
		d.nodes[name] = n
		ctx, n.cancel = context.WithCancel(ctx)
		n.done.Go(func() { n.send(ctx) })
		n.done.Go(func() { n.apply(ctx) })
	}
	n.mu.Lock()
	n.wanted = time.Now()
	n.mu.Unlock()
	return n
}

func (n *node) current() *link.Session {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.session
}

// move gives the node the shared set of the site where it is now.
func (n *node) move(site string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.site == site {
		return
	}
	n.site = site
	if n.session != nil {
		n.session.Replace(link.SharedSet, n.d.shared.set(site))
	}
}

// at is the site whose set the node has.
func (n *node) at() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.site
}

// receive takes a sealed frame; false if it is of a session that is not known.
func (n *node) receive(number uint32, frame []byte, now time.Time) bool {
	s := n.current()
	if s == nil || !s.Is(number) {
		return false
	}
	if err := s.Receive(frame, now); err != nil {
		n.d.log.Debug("frame of no use", "node", n.name, "err", err)
		return true
	}
	n.hear(now)
	return true
}

// hear notes that the node is there.
func (n *node) hear(now time.Time) {
	n.mu.Lock()
	back := !n.online
	if back {
		n.since = now
	}
	n.online, n.heard = true, now
	n.renew = n.renew || back
	n.mu.Unlock()
	if back {
		n.d.log.Info("node connected", "node", n.name)
		n.d.notify(n.name)
		poke(n.work)
	}
}

// lastWill is a hint of the broker that the connection broke. Anybody might have sent it, so the
// node is asked.
func (n *node) lastWill(now time.Time) {
	n.mu.Lock()
	s := n.session
	if n.online {
		n.will = now
	}
	n.mu.Unlock()
	if s != nil {
		s.Ask()
	}
}

// look notices that the node is away.
func (n *node) look(now time.Time) {
	n.mu.Lock()
	silent := now.Sub(n.heard)
	left := n.online && (silent > link.OfflineAfter || n.will.After(n.heard) && now.Sub(n.will) > willTime)
	if left {
		n.online, n.since = false, now
	}
	s := n.session
	n.mu.Unlock()
	if left {
		n.d.log.Warn("node disconnected", "node", n.name, "silent", silent.Round(time.Second))
		if s != nil {
			s.DropStreams()
		}
		n.d.notify(n.name)
	}
}

// longAway reports that the node was not heard for so long that nothing of it needs to be held.
func (n *node) longAway(now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return now.Sub(n.heard) > forgetAfter && now.Sub(n.wanted) > forgetAfter
}

func (n *node) isOnline() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.online
}

func (n *node) wasHeard() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.heard.IsZero()
}

func (n *node) dial(target string) (net.Conn, error) {
	n.mu.Lock()
	s, online := n.session, n.online
	n.mu.Unlock()
	if s == nil || !online {
		return nil, ErrOffline
	}
	return s.Open(target)
}

// send publishes what the session has to say, while the node is there.
func (n *node) send(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := time.Hour
		if s := n.current(); s != nil && n.isOnline() {
			now := time.Now()
			for n.tell(s, now) && ctx.Err() == nil {
				now = time.Now()
			}
			if at := s.Deadline(now); !at.IsZero() {
				wait = max(at.Sub(now), 0)
			}
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
		case <-timer.C:
		}
	}
}

// tell publishes the session's next frame, if there is one, when it is this node's turn to.
func (n *node) tell(s *link.Session, now time.Time) (told bool) {
	n.d.making.do(func() {
		var frame []byte
		if frame, told = s.Next(now); told {
			n.d.publish(link.NodePlace(n.name), frame)
		}
	})
	return told
}

// end stops what works for the node, and waits for it.
func (n *node) end() {
	if s := n.current(); s != nil {
		s.End(link.ErrSessionEnded)
	}
	n.cancel()
	n.done.Wait()
}

// scan looks at all nodes from time to time.
func (d *Dispatcher) scan(ctx context.Context) {
	tick := time.NewTicker(scanInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, n := range d.all() {
				n.look(now)
				d.forgetLongAway(n, now)
			}
			d.forgetGreeters(now)
		}
	}
}

// forgetLongAway drops a node that has been away for long; when it comes back it begins a new session.
// That is decided under the lock under which ensure gives the node to a session.
func (d *Dispatcher) forgetLongAway(n *node, now time.Time) {
	d.mu.Lock()
	away := n.longAway(now)
	if away {
		delete(d.nodes, n.name)
	}
	d.mu.Unlock()
	if away {
		d.dropped(n)
	}
}

// forget drops a node.
func (d *Dispatcher) forget(n *node) {
	d.mu.Lock()
	delete(d.nodes, n.name)
	d.mu.Unlock()
	d.dropped(n)
}

func (d *Dispatcher) dropped(n *node) {
	n.end()
	d.dirty.add(nodeKey(n.name))
}
