package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"sync"
	"time"

	"bramble.dev/link"
	"bramble.dev/link/carrier"
)

// Times of an uplink.
const (
	maxBackoff = 20 * time.Second
	// refusedBackoff is for a node that only a person can help.
	refusedBackoff = time.Minute
	// answerTime is how long the server may take to answer a frame of a handshake, at first.
	answerTime = 3 * time.Second
	tries      = 5
	// inbox bounds the frames that wait to be looked at.
	inbox = 64
	// renewCheck is how often the age of the certificate is looked at.
	renewCheck = time.Hour
)

var (
	errSilent = errors.New("the server does not answer")
	errMoved  = errors.New("the node has another address")
)

// Run keeps the node connected until ctx is done. It returns an error only if nothing but a person
// can help a node that has not joined: the token is wrong, or the name is taken.
func (u *Uplink) Run(ctx context.Context) error {
	defer u.serving.Wait()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { u.apply(ctx) })
	defer u.end()
	wait, last := u.cfg.Backoff, ""
	for n := 0; ; n++ {
		broker := u.broker(n)
		worked, err := u.connect(ctx, broker)
		u.connected.Store(false)
		if ctx.Err() != nil {
			return nil
		}
		if worked {
			wait = u.cfg.Backoff
		}
		var refusal *link.Refusal
		if errors.As(err, &refusal) && !refusal.Temporary() {
			if !u.id.joined() && !u.id.restore() {
				return err
			}
			wait = refusedBackoff // the pods keep running
			if u.id.rejoin(refusal.Code) {
				wait = u.cfg.Backoff
			}
		}
		// The same failure again and again is told once.
		level := slog.LevelWarn
		if err.Error() == last && !worked {
			level = slog.LevelDebug
		}
		last = err.Error()
		u.log.Log(ctx, level, "connection to the server lost", "broker", broker.Redacted(), "err", err)
		if !sleep(ctx, wait/2+rand.N(wait)) {
			return nil
		}
		wait = min(2*wait, maxBackoff)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (u *Uplink) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.session != nil {
		u.session.End(link.ErrSessionEnded)
		u.session = nil
	}
}

// line is one connection to a broker.
type line struct {
	client *carrier.Client
	topics link.Topics
	place  string
	frames chan []byte
}

func (l *line) send(frame []byte) error { return l.client.Publish(l.topics.Up(l.place), frame) }

// open connects to a broker at a place.
func (u *Uplink) open(ctx context.Context, broker *url.URL, place string) (*line, error) {
	l := &line{topics: link.Topics{Cluster: u.id.cluster()}, place: place, frames: make(chan []byte, inbox)}
	o := carrier.Options{
		URL: broker, TLS: u.brokerTLS(broker.Hostname()), ClientID: link.ClientID(l.topics.Cluster, place), Dial: u.cfg.Dial,
		Subscribe: []string{l.topics.Down(place)},
		Receive: func(_ string, payload []byte) {
			select {
			case l.frames <- payload:
			default: // lost, as the transport may lose any
			}
		},
	}
	if name, ok := link.NodeOf(place); ok {
		o.Will = l.topics.Gone(place)
		o.ClientID = link.NodeClientID(l.topics.Cluster, name, u.id.instance)
	}
	var err error
	l.client, err = carrier.Connect(ctx, o)
	return l, err
}

// connect connects once, joins if that is to be done, and works until the connection is lost.
func (u *Uplink) connect(ctx context.Context, broker *url.URL) (worked bool, err error) {
	if !u.id.joined() {
		if err := u.join(ctx, broker); err != nil {
			return false, err
		}
	}
	select {
	case <-u.moved: // until now; the connection is from where the node is
	default:
	}
	l, err := u.open(ctx, broker, link.NodePlace(u.id.name))
	if err != nil {
		return false, err
	}
	defer l.client.Close()
	return u.converse(ctx, l)
}

// join gets a certificate for the node's key.
func (u *Uplink) join(ctx context.Context, broker *url.URL) error {
	l, err := u.open(ctx, broker, link.JoinPlace(randomHex(link.JoinIDLength/2)))
	if err != nil {
		return err
	}
	defer l.client.Close()
	session, greeting, ca, err := u.handshake(ctx, l)
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	session.End(nil)
	if err := u.id.keep(greeting.Certificate, ca); err != nil {
		return err
	}
	u.log.Info("joined the cluster", "node", u.id.name, "cluster", u.id.cluster())
	return nil
}

// converse keeps a session with the server over a connection.
func (u *Uplink) converse(ctx context.Context, l *line) (worked bool, err error) {
	u.mu.Lock()
	session := u.session
	u.mu.Unlock()
	if session != nil {
		// The transport was cut; the session is as good as it was, if the server still has it.
		before := session.LastHeard()
		session.Resume()
		if err = u.serve(ctx, l, session); !errors.Is(err, errUnknown) {
			return session.LastHeard().After(before), err
		}
	}
	for {
		session, _, _, err = u.handshake(ctx, l)
		if err != nil {
			return worked, err
		}
		worked = true
		u.mu.Lock()
		if u.session != nil {
			u.session.End(link.ErrSessionEnded)
		}
		u.session = session
		u.mu.Unlock()
		u.log.Info("connected to the server", "node", u.id.name)
		if err = u.serve(ctx, l, session); !errors.Is(err, errUnknown) {
			return worked, err
		}
	}
}

// errUnknown: the server does not know the session, because it was restarted.
var errUnknown = errors.New("the server does not know the session")

// serve moves frames between a session and the connection.
func (u *Uplink) serve(ctx context.Context, l *line, s *link.Session) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() { cancel(u.receive(ctx, l, s)) })
	renew := time.Now()
	for {
		now := time.Now()
		for frame, ok := s.Next(now); ok; frame, ok = s.Next(now) {
			if err := l.send(frame); err != nil {
				return err
			}
			now = time.Now()
		}
		if s.Silent(now) {
			return errSilent
		}
		if now.After(renew) {
			renew = now.Add(renewCheck)
			if u.now().After(u.id.renewAt()) {
				s.AskRenewal()
				continue
			}
		}
		next := renew
		if at := s.Deadline(now); !at.IsZero() && at.Before(next) {
			next = at
		}
		timer := time.NewTimer(max(time.Until(next), 0))
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case err := <-l.client.Lost():
			timer.Stop()
			return err
		case <-u.moved:
			timer.Stop()
			return errMoved
		case <-u.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// receive passes frames that arrive to the session.
func (u *Uplink) receive(ctx context.Context, l *line, s *link.Session) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case frame := <-l.frames:
			if r, ok := link.AsRejected(frame); ok {
				if r.Reason == link.RejectSession && s.Is(r.Session) {
					return errUnknown
				}
				continue
			}
			if err := s.Receive(frame, time.Now()); err != nil {
				u.log.Debug("frame of no use", "err", err)
				continue
			}
			if u.connected.CompareAndSwap(false, true) && u.cfg.Connected != nil {
				u.cfg.Connected()
			}
			u.note(s)
		}
	}
}

// note remembers which sets were complete, and passes on that the server was heard of.
func (u *Uplink) note(s *link.Session) {
	for id := range u.indexes {
		if s.Synced(id) {
			u.synced[id].Store(true)
		}
	}
	if stamp, complete := s.Held(); stamp > 0 && u.cfg.Held != nil {
		u.cfg.Held(stamp, complete)
	}
}

// apply hands changes to the agent, one batch at a time, until each is stored.
func (u *Uplink) apply(ctx context.Context) {
	for {
		u.mu.Lock()
		s := u.session
		u.mu.Unlock()
		if s == nil || !u.applyNext(ctx, s) {
			select {
			case <-ctx.Done():
				return
			case <-u.work:
			}
		}
	}
}

func (u *Uplink) applyNext(ctx context.Context, s *link.Session) bool {
	b, ok := s.Work()
	if !ok {
		return false
	}
	for wait := 200 * time.Millisecond; len(b.Changes) > 0; wait = min(2*wait, 30*time.Second) {
		err := u.cfg.Apply(ctx, b.Set.String(), b.Changes)
		if err == nil {
			break
		}
		u.log.Error("changes from the server could not be stored", "set", b.Set.String(), "items", len(b.Changes), "err", err)
		if !sleep(ctx, wait) {
			return false
		}
	}
	s.Applied(b)
	u.note(s)
	return true
}
