package link

import (
	"crypto/rand"
	"crypto/sha256"
	"sync"
	"time"
)

// Times of a session.
const (
	// KeepaliveInterval is how long an agent is silent at most. With OfflineAfter it keeps an idle
	// node below 1 KiB a minute on the wire.
	KeepaliveInterval = 27 * time.Second
	// OfflineAfter is the silence after which a node counts as away: two keepalives were missed.
	OfflineAfter = 57 * time.Second
	// pongTime is how long the answer to a keepalive may take.
	pongTime = 15 * time.Second
	ackDelay = 25 * time.Millisecond
	// holdInterval is less than a keepalive, so that every keepalive brings one.
	holdInterval = KeepaliveInterval - 2*time.Second
)

// SessionConfig is what a session works on. Sets and indexes may be passed on to the next session.
type SessionConfig struct {
	Keys     Keys
	Agent    bool           // this side is the agent
	Sources  map[SetID]*Set // what the peer is to have
	Replicas map[SetID]*Set // indexes of what the peer sends
	// Greeting is sent first; the server's Accept or Refuse.
	Greeting Greeting
	// Accept is called for a stream that the peer opens. It must not block.
	Accept func(*Stream)
	// Acknowledged is called for items of our sources that the peer has. It must not block.
	Acknowledged func(set SetID, key string, version Version)
	// Greeted is called on the agent's side with the server's greeting, Renew on the server's side
	// when the agent wants a new certificate, Certificate on the agent's side with the answer,
	// Time with the server's time. They must not block.
	Greeted     func(Greeting)
	Renew       func()
	Certificate func(der []byte)
	Time        func(time.Time)
	// Stamp gives the agent's own time, which counts while the machine sleeps and knows no steps; 0: it does not
	// matter when the server last heard of the node. Held is called on the server's side when it has. They must
	// not block.
	Stamp func() time.Duration
	Held  func()
	// Wake is called when Next or Work may have something. It must not block.
	Wake func()
	// rand gives salts in tests; nil: crypto/rand.
	rand func([]byte)
}

// Session is one side of a connection: it turns what is to be said into frames, and frames into
// what was said. It is safe for use by several goroutines.
type Session struct {
	cfg SessionConfig

	mu       sync.Mutex
	seal     sealer
	open     opener
	pace     pacer
	ended    error
	started  bool // the agent's side: the server has accepted
	greet    bool
	after    []func()
	sources  []*source
	replicas []*replica

	large   *outgoing // a message that is sent in parts
	largeID uint64
	parts   incoming

	ackNewest  uint64
	ackAt      time.Time // when it arrived
	ackPending int

	lastSent, lastHeard time.Time
	ping, pong          bool
	holdAt              time.Time     // when the server was last asked to say that it heard of us
	hold                time.Duration // the server's side: what is to be answered; 0: nothing
	held                time.Duration // the agent's side: the newest stamp that was answered
	pinged              time.Time     // without an answer since
	unanswered          time.Time     // when the first of the frames was sent since which nothing came
	renew               bool
	certificate         []byte

	streams    map[uint64]*Stream
	turn       []uint64 // streams in the order in which they send next
	nextStream uint64
	nextPeer   uint64   // the peer's streams from here on have not appeared yet
	skipped    []uint64 // nor have these
	resets     []reset
}

type outgoing struct {
	id      uint64
	message []byte
	offset  int
}

// incoming puts one large message together. Parts come in order; one that does not fit ends it.
type incoming struct {
	id    uint64
	total uint64
	buf   []byte
}

// NewSession makes a session.
func NewSession(cfg SessionConfig) *Session {
	k := cfg.Keys
	s := &Session{
		cfg:     cfg,
		seal:    sealer{version: k.Version, session: k.Session, aead: newAEAD(k.Send[:])},
		open:    opener{version: k.Version, session: k.Session, aead: newAEAD(k.Receive[:])},
		pace:    newPacer(),
		streams: map[uint64]*Stream{},
		started: !cfg.Agent,
		greet:   !cfg.Agent,
	}
	// An agent opens streams with odd numbers, a server with even ones.
	s.nextStream, s.nextPeer = 2, 1
	if cfg.Agent {
		s.nextStream, s.nextPeer = 1, 2
	}
	for id := NodeSet; id <= StatusSet; id++ {
		if set := cfg.Sources[id]; set != nil {
			s.sources = append(s.sources, newSource(id, set))
		}
		if index := cfg.Replicas[id]; index != nil {
			s.replicas = append(s.replicas, &replica{id: id, index: index, owe: true, resume: true})
		}
	}
	return s
}

func (s *Session) salt() (x salt) {
	if s.cfg.rand != nil {
		s.cfg.rand(x[:])
		return x
	}
	if _, err := rand.Read(x[:]); err != nil {
		panic(err) // never happens (crypto/rand)
	}
	return x
}

// kick makes the driver look; the mutex is held.
func (s *Session) kick() {
	if s.cfg.Wake != nil {
		s.cfg.Wake()
	}
}

// unlock frees the mutex and calls what was put off until then.
func (s *Session) unlock() {
	after := s.after
	s.after = nil
	s.mu.Unlock()
	for _, f := range after {
		f()
	}
}

// Changed tells the session that a source's set changed.
func (s *Session) Changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kick()
}

// Resume tells the session that the transport was cut and is back: what was under way is lost.
func (s *Session) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pace.forget()
	s.large = nil
	s.pinged, s.unanswered = time.Time{}, time.Time{}
	s.holdAt = time.Time{}
	for _, r := range s.replicas {
		r.owe, r.resume, r.synced = true, true, false
	}
	for _, r := range s.sources {
		r.restart(s.salt())
	}
	for _, st := range s.streams {
		st.rewind()
		st.openSent = false
	}
	s.kick()
}

// Replace gives the peer another set in place of one of the sources. What was under way is
// compared anew.
func (s *Session) Replace(id SetID, set *Set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range s.sources {
		if r.id == id {
			s.sources[i] = newSource(id, set)
			s.sources[i].sent, s.sources[i].applied = r.sent, r.applied // numbers go on
		}
	}
	s.large = nil // it may be of the former set
	for _, r := range s.sources {
		r.restart(s.salt())
	}
	s.kick()
}

// Held is, on the agent's side, the newest of its stamps that the server has answered: it had heard of the node then or
// later. complete: what the server wanted of the node when it answered has arrived and is applied.
func (s *Session) Held() (stamp time.Duration, complete bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.replica(NodeSet)
	return s.held, r != nil && r.synced && !r.busy && len(r.queue) == 0
}

// Ask makes the peer answer, so that LastHeard tells whether it is there.
func (s *Session) Ask() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cfg.Agent {
		s.ping = true
	} else if len(s.sources) > 0 && !s.sources[0].open {
		s.sources[0].restart(s.salt())
	}
	s.kick()
}

// Greet sends the greeting again.
func (s *Session) Greet() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.greet = true
	s.kick()
}

// AskRenewal asks the server for a new certificate.
func (s *Session) AskRenewal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renew = true
	s.kick()
}

// SendCertificate answers that.
func (s *Session) SendCertificate(der []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.certificate = der
	s.kick()
}

// LastHeard is when the last authentic frame came.
func (s *Session) LastHeard() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastHeard
}

// Silent reports, on the agent's side, that the server does not answer.
func (s *Session) Silent(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.pinged.IsZero() && now.Sub(s.pinged) > pongTime
}

// Synced reports whether a replica was equal to its source when that was last known.
func (s *Session) Synced(set SetID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.replicas {
		if r.id == set {
			return r.synced
		}
	}
	return false
}

// End ends the session and its streams.
func (s *Session) End(err error) {
	if err == nil {
		err = ErrSessionEnded
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return
	}
	s.ended = err
	s.endStreams(err)
}

// DropStreams ends all streams, because the peer is away; the session goes on.
func (s *Session) DropStreams() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		st.reset("the other side was away")
		st.fail(ErrSessionEnded)
	}
}

func (s *Session) endStreams(err error) {
	for _, st := range s.streams {
		st.fail(err)
	}
	s.streams, s.turn = map[uint64]*Stream{}, nil
}

// Work returns changes that are to be applied; then Applied is called with the same batch. Of a
// set there is one batch at a time.
func (s *Session) Work() (Batch, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return Batch{}, false
	}
	for _, r := range s.replicas {
		if b, ok := r.next(); ok {
			return b, true
		}
	}
	return Batch{}, false
}

// Applied tells that a batch was applied, durably.
func (s *Session) Applied(b Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.replicas {
		if r.id == b.Set {
			r.done(b)
		}
	}
	s.kick()
}

// combined stands for the content of all sets: if both sides have the same, they are in step.
func (s *Session) combined() (d [pingSize]byte) {
	h := sha256.New()
	for id := NodeSet; id <= StatusSet; id++ {
		for _, r := range s.sources {
			if r.id == id {
				root := r.set.Root()
				h.Write(root[:])
			}
		}
		for _, r := range s.replicas {
			if r.id == id {
				root := r.index.Root()
				h.Write(root[:])
			}
		}
	}
	copy(d[:], h.Sum(nil))
	return d
}

func (s *Session) source(id SetID) *source {
	for _, r := range s.sources {
		if r.id == id {
			return r
		}
	}
	return nil
}

func (s *Session) replica(id SetID) *replica {
	for _, r := range s.replicas {
		if r.id == id {
			return r
		}
	}
	return nil
}

// report passes on which items the peer has.
func (s *Session) report(r *source) {
	if s.cfg.Acknowledged == nil {
		return
	}
	for _, it := range r.acknowledged() {
		s.after = append(s.after, func() { s.cfg.Acknowledged(r.id, it.key, it.version) })
	}
}

// Is reports whether the session has this number.
func (s *Session) Is(number uint32) bool { return s.cfg.Keys.Session == number }
