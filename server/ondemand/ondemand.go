// Package ondemand keeps a part of the API running while the store holds an object that needs it, so that a cluster without any pays
// nothing for it.
//
// Invariant: whoever asks for the part after an object was written gets one that was started, or an error; a part that was stopped is
// never started again for nothing.
//
//	webhooks := &ondemand.Part[*plugin]{Store: db, Prefix: "/registry/validatingwebhookconfigurations", Start: start, Failed: log}
//	go webhooks.Run(ctx)
//	p, ok, err := webhooks.Running()
package ondemand

import (
	"context"
	"errors"
	"sync"
	"time"

	"bramble.dev/server/store"
)

// Part is what runs on demand. Its exported fields are not changed once it is used.
type Part[T interface{ Stop() }] struct {
	Store  store.Store
	Prefix string            // where the objects lie that need it
	Needed func() bool       // whether one of them does; nil: any
	Start  func() (T, error) // what Stop of its result ends
	Failed func(error)       // told, a second apart, of what keeps it from following the objects

	mu       sync.Mutex
	runs     bool
	it       T
	stopping chan struct{} // closed when what is being stopped has stopped; else nil
	closed   bool
}

// linger is how long a part stays after the last object: it finishes what it is about, and an object that is deleted and made anew
// does not start everything again.
const linger = 5 * time.Second

// errStopping refuses who asks for a part that is needed again before it has stopped, and does not stop.
var errStopping = errors.New("what answers is being stopped, to be started anew")

// ErrClosed refuses who asks while the server ends: that what is asked for does not exist would be wrong.
var ErrClosed = errors.New("the server is closing")

// Run starts the part with the first object, and stops it after the last, until ctx is done. Running does not wait for it.
func (p *Part[T]) Run(ctx context.Context) {
	defer p.Close()
	for ctx.Err() == nil {
		err := p.follow(ctx)
		if ctx.Err() != nil || errors.Is(err, store.ErrTooOld) {
			continue
		}
		p.Failed(err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (p *Part[T]) follow(ctx context.Context) error {
	f, err := p.Store.Follow(p.Prefix)
	if err != nil {
		return err
	}
	defer f.Close()
	f.Snapshot()
	for {
		if _, _, err := p.Running(); err != nil {
			return err
		}
		if err := p.next(ctx, f); err != nil {
			return err
		}
	}
}

// next waits for a change of the objects. If there is none left, and none comes soon, it stops what runs.
func (p *Part[T]) next(ctx context.Context, f *store.Follower) error {
	if p.needed() {
		_, err := f.Next(ctx)
		return err
	}
	soon, cancel := context.WithTimeout(ctx, linger)
	defer cancel()
	_, err := f.Next(soon)
	if err == nil || ctx.Err() != nil || soon.Err() == nil {
		return err
	}
	p.stopIdle()
	_, err = f.Next(ctx)
	return err
}

// Running gives the part, and starts it if there is an object; ok is false when nothing runs. What the part itself does may come to
// ask, also while it is being stopped.
func (p *Part[T]) Running() (it T, ok bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.stopping != nil && !p.closed && p.needed() {
		if !p.stopped() {
			return it, false, errStopping
		}
	}
	if p.closed {
		return it, false, ErrClosed
	}
	if !p.runs && p.stopping == nil && p.needed() {
		started, err := p.Start()
		if err != nil {
			return it, false, err
		}
		p.it, p.runs = started, true
	}
	return p.it, p.runs, nil
}

// Current gives the part, as Running does, after upToDate has said that it has taken in all objects that the store holds. What ends
// that for another reason than ctx is that the part was stopped meanwhile: then another may run.
func (p *Part[T]) Current(ctx context.Context, upToDate func(context.Context, T) error) (it T, ok bool, err error) {
	for {
		if it, ok, err = p.Running(); !ok {
			return it, false, err
		}
		if err = upToDate(ctx, it); err == nil {
			return it, true, nil
		}
		if ctx.Err() != nil {
			var none T
			return none, false, err
		}
	}
}

// stopped waits, for as long as a part lingers, until what is being stopped has stopped. The lock is held before and after.
func (p *Part[T]) stopped() bool {
	stopping := p.stopping
	p.mu.Unlock()
	defer p.mu.Lock()
	select {
	case <-stopping:
		return true
	case <-time.After(linger):
		return false
	}
}

// Close stops everything for good.
func (p *Part[T]) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.stopping != nil {
		p.stopped()
	}
	p.stop()
}

func (p *Part[T]) needed() bool {
	n, _ := p.Store.Stand(p.Prefix)
	return n > 0 && (p.Needed == nil || p.Needed())
}

// stopIdle stops what runs unless there is an object after all.
func (p *Part[T]) stopIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.needed() {
		p.stop()
	}
}

// stop gives up the lock while the part stops: a request of its own may be on the way to Running.
func (p *Part[T]) stop() {
	if !p.runs {
		return
	}
	var none T
	it, stopping := p.it, make(chan struct{})
	p.it, p.runs, p.stopping = none, false, stopping
	p.mu.Unlock()
	it.Stop()
	p.mu.Lock()
	p.stopping = nil
	close(stopping)
}
