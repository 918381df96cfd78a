package announce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Options are fixed for an Announcer's life.
type Options struct {
	Enter  func(func() error) error // runs what opens sockets where the host's network is
	Logger *slog.Logger
	// Took is called when this node begins to announce an address; optional.
	Took func(a netip.Addr, link string)
}

// Config is what may change.
type Config struct {
	Self      string // this node
	NodeIP    netip.Addr
	Cluster   string       // its id: two clusters on one link do not hear each other
	Addresses []netip.Addr // that this node can serve; those of networks that it is not on are passed over
	Peers     []Peer       // that may share the link
}

// Peer is another node.
type Peer struct {
	Node string
	IP   netip.Addr
}

// Announcer is a node's part in it.
type Announcer struct {
	Options

	setting sync.Mutex // one Set at a time
	running *round     // nil while there is nothing to announce
}

// Open makes an Announcer; it does nothing before Set.
func Open(o Options) *Announcer { return &Announcer{Options: o} }

// Set makes the node announce what the configuration says.
func (a *Announcer) Set(_ context.Context, c Config) error {
	a.setting.Lock()
	defer a.setting.Unlock()
	if len(c.Addresses) == 0 {
		a.stop()
		return nil
	}
	if a.running != nil && a.running.nodeIP != c.NodeIP {
		a.stop()
	}
	return a.Enter(func() error { return a.set(c) })
}

func (a *Announcer) set(c Config) error {
	nets, err := networks()
	if err != nil {
		return err
	}
	on := map[netip.Addr]net.Interface{}
	for _, address := range c.Addresses {
		for _, n := range nets {
			if n.prefix.Contains(address) && address.Is4() {
				on[address] = n.link
				break
			}
		}
	}
	if len(on) == 0 {
		a.stop()
		return nil
	}
	if len(on) > maxAddresses {
		return fmt.Errorf("%d addresses are to be announced: the most is %d", len(on), maxAddresses)
	}
	if a.running == nil {
		if a.running, err = begin(a.Options, c.NodeIP); err != nil {
			return err
		}
	}
	return a.running.become(c, on)
}

func (a *Announcer) stop() {
	if a.running != nil {
		a.running.end()
		a.running = nil
	}
}

// Close stops announcing.
func (a *Announcer) Close() error {
	a.setting.Lock()
	defer a.setting.Unlock()
	a.stop()
	return nil
}

// round is an Announcer while there is something to announce.
type round struct {
	Options
	nodeIP netip.Addr
	conn   *net.UDPConn
	wake   chan struct{} // capacity 1: look who has what, and tell the others
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu       sync.Mutex
	election *election
	tag      [8]byte
	peers    map[netip.Addr]string
	on       map[netip.Addr]int // the link of each address
	wires    map[int]*wire
	mine     map[netip.Addr]bool
	again    map[netip.Addr][]time.Time // when an address is to be claimed
	apart    bool                       // others may have announced what is mine without my having heard of it
	last     time.Time                  // of looking
}

func begin(o Options, nodeIP netip.Addr) (*round, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(nodeIP, Port)))
	if err != nil {
		return nil, fmt.Errorf("hear the other nodes: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	now := time.Now()
	r := &round{Options: o, nodeIP: nodeIP, conn: conn, wake: make(chan struct{}, 1), stop: stop, election: newElection(now), last: now,
		wires: map[int]*wire{}, mine: map[netip.Addr]bool{}, again: map[netip.Addr][]time.Time{}}
	r.done.Go(r.hear)
	r.done.Go(func() { r.run(ctx) })
	return r, nil
}

func (r *round) end() {
	r.stop()
	r.conn.Close()
	r.done.Wait()
	for _, w := range r.wires {
		w.close()
	}
}

// become takes in a configuration. It runs in the host's namespace.
func (r *round) become(c Config, on map[netip.Addr]net.Interface) error {
	var errs []error
	wanted := map[int]net.Interface{}
	for _, l := range on {
		wanted[l.Index] = l
	}
	r.mu.Lock()
	var gone []*wire
	for index, w := range r.wires {
		if l, ok := wanted[index]; !ok || !bytes.Equal(l.HardwareAddr, w.mac) {
			gone = append(gone, w)
			delete(r.wires, index)
		}
	}
	for index, l := range wanted {
		if r.wires[index] != nil {
			continue
		}
		w, err := openWire(l)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		r.wires[index], r.apart = w, true
		w.listen(func(p arp) { r.asked(w, p) })
	}
	r.tag, r.peers, r.on = clusterTag(c.Cluster), map[netip.Addr]string{}, map[netip.Addr]int{}
	e := r.election
	e.self, e.known, e.serves = c.Self, map[string]bool{}, map[netip.Addr]bool{}
	for _, p := range c.Peers {
		if p.Node != c.Self {
			r.peers[p.IP], e.known[p.Node] = p.Node, true
		}
	}
	for a, l := range on {
		r.on[a], e.serves[a] = l.Index, true
	}
	r.mu.Unlock()
	for _, w := range gone {
		w.close()
	}
	poke(r.wake)
	return errors.Join(errs...)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run tells and looks, until ctx is done.
func (r *round) run(ctx context.Context) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-r.wake:
		}
		r.tell()
		r.look(time.Now())
	}
}

// tell says to the other nodes what this one can serve.
func (r *round) tell() {
	r.mu.Lock()
	b := beat{cluster: r.tag, node: r.election.self, serves: slices.SortedFunc(maps.Keys(r.election.serves), netip.Addr.Compare)}
	to := slices.Collect(maps.Keys(r.peers))
	r.mu.Unlock()
	if len(b.node) > 255 {
		return
	}
	packet := b.encode()
	for _, ip := range to {
		if _, err := r.conn.WriteToUDPAddrPort(packet, netip.AddrPortFrom(ip, Port)); err != nil {
			r.Logger.Debug("another node cannot be told what this one serves", "address", ip.String(), "err", err)
		}
	}
}

// hear takes in what other nodes say, until the socket is closed.
func (r *round) hear() {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := r.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(interval / 10) // the kernel's passing on of an ICMP error, say
			continue
		}
		b, err := decodeBeat(buf[:n])
		if err != nil {
			continue
		}
		serves := make(map[netip.Addr]bool, len(b.serves))
		for _, a := range b.serves {
			serves[a] = true
		}
		r.mu.Lock()
		news := false
		if b.cluster == r.tag && r.peers[from.Addr().Unmap()] == b.node {
			now := time.Now()
			r.apart = r.apart || r.election.away(b.node, now)
			news = r.election.hear(b.node, serves, now)
		}
		r.mu.Unlock()
		if news {
			poke(r.wake) // who has just come learns at once who is there
		}
	}
}

// claims are when an address that has come here is claimed: again, because a packet may be lost and a switch may be slow.
var claims = []time.Duration{0, 200 * time.Millisecond, time.Second, 3 * time.Second}

// look finds out what this node announces from now on.
func (r *round) look(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.last) > missed { // this process stood still: what it knows of the others is old
		r.election.began, r.election.heard, r.apart = now, map[string]peer{}, true
	}
	r.last = now
	mine := r.election.mine(now)
	for a := range mine {
		if !r.mine[a] || r.apart {
			r.schedule(a, now)
		}
		if !r.mine[a] {
			r.took(a)
		}
	}
	r.apart = false
	for a := range r.mine {
		if !mine[a] {
			r.Logger.Info("another node announces the address", "address", a.String())
			delete(r.again, a)
		}
	}
	r.mine = mine
	for a, times := range r.again {
		for len(times) > 0 && !times[0].After(now) {
			times = times[1:]
			r.claim(a)
		}
		if r.again[a] = times; len(times) == 0 {
			delete(r.again, a)
		}
	}
}

func (r *round) schedule(a netip.Addr, now time.Time) {
	r.again[a] = nil
	for _, d := range claims {
		r.again[a] = append(r.again[a], now.Add(d))
	}
}

func (r *round) took(a netip.Addr) {
	w := r.wires[r.on[a]]
	if w == nil {
		return
	}
	r.Logger.Info("this node announces the address", "address", a.String(), "link", w.name)
	if r.Took != nil {
		r.Took(a, w.name)
	}
}

func (r *round) claim(a netip.Addr) {
	w := r.wires[r.on[a]]
	if w == nil {
		return
	}
	if err := w.send(claim(w.mac, a)...); err != nil {
		r.Logger.Debug("an address cannot be announced", "address", a.String(), "err", err)
	}
}

// asked answers a question of the link, and defends an address that another claims: a node that stood still for a moment and
// did not know that it had been replaced.
func (r *round) asked(w *wire, p arp) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mine[p.senderIP] && r.on[p.senderIP] == w.index && !bytes.Equal(p.sender, w.mac) {
		if len(r.again[p.senderIP]) == 0 { // claims come to an end even when two defend
			now := time.Now()
			r.again[p.senderIP] = []time.Time{now.Add(interval / 2), now.Add(2 * interval)}
		}
		return
	}
	if p.request && r.mine[p.receiverIP] && r.on[p.receiverIP] == w.index && p.senderIP != p.receiverIP {
		if err := w.send(answer(w.mac, p)); err != nil {
			r.Logger.Debug("a question for an address cannot be answered", "address", p.receiverIP.String(), "err", err)
		}
	}
}
