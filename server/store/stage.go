package store

import (
	"context"
	"errors"
	"sync"
)

// ErrClosed is returned for what is asked of a closed database.
var ErrClosed = errors.New("the store is closed")

// maxWaiting bounds the writers at one time, and with them a batch; the others wait for a slot.
const maxWaiting = 1024

// stage is where writes meet: each is checked against the latest state, committed or not, gets its revision and joins
// the open batch. While one batch is being synced the next one fills, so that any number of writers share a sync, also
// writers of one object.
type stage struct {
	mu     sync.Mutex
	rev    int64 // the latest handed out
	open   *batch
	latest map[stagedKey]*change // staged and not yet visible
	closed bool
	fail   error // after a fatal error

	slots chan struct{} // bounds the writers that wait
	turn  chan struct{} // held by who commits; for good by Close
}

type stagedKey struct {
	res *resource
	key string
}

// batch is what one commit carries.
type batch struct {
	changes []*change
	rev     int64 // the last revision handed out in it; 0: none
	flush   bool  // the volatile class too
	done    chan struct{}
	err     error
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// wait returns when the batch is on disk and visible, or has failed. Somebody else has staged in it, and finishes it.
func (b *batch) wait() error {
	if b == nil {
		return nil
	}
	<-b.done
	return b.err
}

func (s *stage) start(rev int64) {
	s.rev = rev
	s.open = newBatch()
	s.latest = map[stagedKey]*change{}
	s.slots = make(chan struct{}, maxWaiting)
	s.turn = make(chan struct{}, 1)
}

// write is a change that somebody wants, if the object is still at the revision it was made from.
type write struct {
	res       *resource
	key       string
	expect    int64  // 0: absent
	value     []byte // nil: delete
	packed    []byte // value as the row will hold it
	expires   int64
	prevValue []byte // of the object at expect
	lazy      bool
}

// state is an object as a writer has to see it: the latest, which may still be on its way to the disk. What is told to
// a client because of it must wait for its batch.
type state struct {
	item  *item // nil: absent
	batch *batch
}

func (st state) rev() int64 {
	if st.item == nil {
		return 0
	}
	return st.item.rev
}

// latest gives the state to base a write on.
func (d *DB) latest(r *resource, key string) state {
	d.stage.mu.Lock()
	defer d.stage.mu.Unlock()
	return d.latestLocked(r, key)
}

func (d *DB) latestLocked(r *resource, key string) state {
	if c := d.stage.latest[stagedKey{r, key}]; c != nil {
		return state{c.item, c.batch}
	}
	it, _ := d.get(r, key)
	return state{item: it}
}

// submit stages a write and waits until it is durable and visible. When the object is not at the expected revision it
// returns at once with the state to try again from, and a nil change.
func (d *DB) submit(ctx context.Context, w write) (*change, state, error) {
	s := &d.stage
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, state{}, context.Cause(ctx)
	}
	c, st, b, err := d.admit(w)
	if err != nil || c == nil {
		return nil, st, err
	}
	// From here on the write may happen whatever becomes of the caller: it waits for the outcome.
	if err := d.finish(b); err != nil {
		return nil, state{}, err
	}
	return c, state{}, nil
}

func (d *DB) admit(w write) (*change, state, *batch, error) {
	s := &d.stage
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refusal(); err != nil {
		return nil, state{}, nil, err
	}
	st := d.latestLocked(w.res, w.key)
	if st.rev() != w.expect {
		return nil, st, nil, nil
	}
	s.rev++
	c := &change{res: w.res, key: w.key, rev: s.rev, prev: st.item, lazy: w.lazy, packed: w.packed, batch: s.open}
	if w.value != nil {
		c.item = newItem(w.key, s.rev, w.value)
		c.item.expires = w.expires
		c.item.unsaved = true
		if st.item != nil {
			c.item.key = st.item.key // one string for all versions
		}
	}
	if c.prev != nil {
		d.cache.pin(c.prev, w.prevValue)
	}
	s.latest[stagedKey{w.res, c.key}] = c
	s.open.changes = append(s.open.changes, c)
	s.open.rev = s.rev
	return c, state{}, c.batch, nil
}

// take closes the open batch; nil when there is nothing in it.
func (s *stage) take() *batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open.rev == 0 && !s.open.flush {
		return nil
	}
	b := s.open
	s.open = newBatch()
	return b
}

// visible forgets the staged state that readers now see.
func (s *stage) visible(b *batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range b.changes {
		k := stagedKey{c.res, c.key}
		if s.latest[k] == c {
			delete(s.latest, k)
		}
	}
}

// drop fails a batch, and with it the one that was staged on top of it. Their revisions are not used again.
func (s *stage) drop(b *batch, err error, fatal bool) []*change {
	s.mu.Lock()
	next := s.open
	s.open = newBatch()
	clear(s.latest)
	if fatal {
		s.fail = err
	}
	s.mu.Unlock()
	for _, b := range []*batch{b, next} {
		b.err = err
		close(b.done)
	}
	return append(b.changes, next.changes...)
}

// refuse lets no write in any more, and fails those that have been staged since the last commit.
func (s *stage) refuse(err error) {
	s.mu.Lock()
	b := s.open
	s.open = newBatch()
	clear(s.latest)
	s.fail = err
	s.mu.Unlock()
	b.err = err
	close(b.done)
}

// Ready says why the database takes no more writes: it failed, or is closed.
func (d *DB) Ready() error {
	d.stage.mu.Lock()
	defer d.stage.mu.Unlock()
	return d.stage.refusal()
}

// refusal is why no write is let in; nil: they are. mu is held.
func (s *stage) refusal() error {
	if s.fail == nil && s.closed {
		return ErrClosed
	}
	return s.fail
}

// pass uses up a revision that no object gets, so that what was listed until now is of the past. It is not written.
func (d *DB) pass() {
	s := &d.stage
	s.mu.Lock()
	if s.refusal() != nil {
		s.mu.Unlock()
		return
	}
	s.rev++
	b := s.open
	b.rev = s.rev
	s.mu.Unlock()
	_ = d.finish(b) // that the store has failed is told to others
}

// close lets no more in; false when it was closed before.
func (s *stage) close() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.closed = true
	return true
}
