package uplink

import (
	"context"
	"fmt"
	"time"

	"bramble.dev/link"
)

// handshake begins a session with the server: frames are repeated until they are answered.
func (u *Uplink) handshake(ctx context.Context, l *line) (*link.Session, link.Greeting, []byte, error) {
	none := link.Greeting{}
	credential, err := u.id.credential()
	if err != nil {
		return nil, none, nil, err
	}
	cfg := link.InitiatorConfig{Cluster: l.topics.Cluster, Place: l.place, Credential: credential, Key: u.id.key, Roots: u.id.roots(), Now: u.now()}
	if u.id.token != nil {
		cfg.CAHash = u.id.token.caHash
	}
	initiator, err := link.NewInitiator(cfg)
	if err != nil {
		return nil, none, nil, err
	}
	began := time.Now()
	if err := u.exchange(ctx, l, initiator); err != nil {
		return nil, none, nil, err
	}
	now, _, ca := initiator.Server()
	u.setTime(now.Add(time.Since(began) / 2))
	session, greeting, err := u.introduce(ctx, l, initiator)
	return session, greeting, ca, err
}

// repeat sends a frame until take has had the answer.
func (u *Uplink) repeat(ctx context.Context, l *line, frame []byte, take func(frame []byte) (done bool, err error)) error {
	wait := answerTime
	var last error
	for range tries {
		if err := l.send(frame); err != nil {
			return err
		}
		timer := time.NewTimer(wait)
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				timer.Stop()
				return ctx.Err()
			case err := <-l.client.Lost():
				timer.Stop()
				return err
			case f := <-l.frames:
				done, err := take(f)
				if done {
					timer.Stop()
					return err
				}
				if err != nil {
					last = err // may be anybody's; it is told if no answer comes
				}
			case <-timer.C:
				waiting = false
			}
		}
		wait += wait / 2
	}
	if last != nil {
		return fmt.Errorf("%w: %w", errSilent, last)
	}
	return errSilent
}

// exchange sends the first frame and takes the answer.
func (u *Uplink) exchange(ctx context.Context, l *line, i *link.Initiator) error {
	return u.repeat(ctx, l, i.Frame(), func(frame []byte) (bool, error) {
		if r, ok := link.AsRejected(frame); ok {
			return r.Reason == link.RejectVersion, r
		}
		err := i.Receive(frame)
		return err == nil, err
	})
}

// introduce sends the second frame and takes the greeting, the first message of the session.
func (u *Uplink) introduce(ctx context.Context, l *line, i *link.Initiator) (*link.Session, link.Greeting, error) {
	keys, _ := i.Keys()
	var greeting *link.Greeting
	session := link.NewSession(link.SessionConfig{
		Keys: keys, Agent: true,
		Sources:  map[link.SetID]*link.Set{link.StatusSet: u.cfg.Status},
		Replicas: u.indexes,
		Greeted:  func(g link.Greeting) { greeting = &g },
		Accept:   func(st *link.Stream) { u.serving.Go(func() { u.cfg.Serve(st.Target(), st) }) },
		Acknowledged: func(_ link.SetID, key string, version link.Version) {
			if f := u.acked.Load(); f != nil {
				(*f)(key, version)
			}
		},
		Certificate: u.renewed,
		Time:        u.setTime,
		Stamp:       u.cfg.Stamp,
		Wake:        func() { poke(u.wake); poke(u.work) },
	})
	err := u.repeat(ctx, l, i.Frame(), func(frame []byte) (bool, error) {
		if _, ok := link.SessionOf(frame); !ok {
			return false, nil
		}
		if err := session.Receive(frame, time.Now()); err != nil {
			return false, err
		}
		if greeting == nil {
			return false, nil
		}
		if greeting.Refused != 0 {
			return true, &link.Refusal{Code: greeting.Refused, Reason: greeting.Reason}
		}
		return true, nil
	})
	if err != nil {
		return nil, link.Greeting{}, err
	}
	return session, *greeting, nil
}

// renewed stores a new certificate.
func (u *Uplink) renewed(der []byte) {
	if err := u.id.keep(der, nil); err != nil {
		u.log.Error("new certificate could not be stored", "err", err)
		return
	}
	u.log.Info("certificate renewed", "node", u.id.name)
}
