package store

import (
	"context"
	"sync"
	"time"

	"github.com/google/btree"
)

// expiry knows when objects with a time to live end.
type expiry struct {
	mu   sync.Mutex
	next *btree.BTreeG[deadline]
	wake chan struct{} // an earlier deadline has come
}

type deadline struct {
	at  int64 // Unix seconds
	rev int64
	res *resource
	key string
}

func newExpiry() expiry {
	return expiry{
		next: btree.NewG(16, func(a, b deadline) bool { return a.at < b.at || a.at == b.at && a.rev < b.rev }),
		wake: make(chan struct{}, 1),
	}
}

// replace notes that an object has a new version; either may be nil.
func (e *expiry) replace(r *resource, old, new *item) {
	if (old == nil || old.expires == 0) && (new == nil || new.expires == 0) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if old != nil && old.expires != 0 {
		e.next.Delete(deadline{at: old.expires, rev: old.rev})
	}
	if new == nil || new.expires == 0 {
		return
	}
	e.next.ReplaceOrInsert(deadline{new.expires, new.rev, r, new.key})
	if first, _ := e.next.Min(); first.rev == new.rev {
		select {
		case e.wake <- struct{}{}:
		default:
		}
	}
}

// due takes what has ended, and says when the next will.
func (e *expiry) due(now time.Time) (ended []deadline, next time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		first, ok := e.next.Min()
		if !ok {
			return ended, time.Time{}
		}
		if first.at > now.Unix() {
			return ended, time.Unix(first.at, 0)
		}
		ended = append(ended, first)
		e.next.DeleteMin()
	}
}

// sweepInterval is how often history is looked over for what has become too old.
const sweepInterval = 30 * time.Second

// runJanitor deletes what has expired and forgets old history, until Close.
func (d *DB) runJanitor(ctx context.Context) {
	var marks marks
	for ctx.Err() == nil {
		ended, next := d.expiry.due(d.now())
		for _, e := range ended {
			d.expire(ctx, e)
		}
		if d.sweep(&marks) {
			d.pass()
		}
		wait := sweepInterval
		if !next.IsZero() {
			wait = min(wait, max(next.Sub(d.now()), time.Second))
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-d.expiry.wake:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// expire deletes an object unless it has been written since. The row may wait: an object that comes back after a crash
// is past its time still.
func (d *DB) expire(ctx context.Context, e deadline) {
	st := d.latest(e.res, e.key)
	if st.rev() != e.rev {
		return
	}
	v, err := d.value(st.item)
	if err != nil {
		d.log.Error("an expired object cannot be read", "key", e.res.prefix+e.key, "err", err)
		return
	}
	_, _, err = d.submit(ctx, write{res: e.res, key: e.key, expect: e.rev, prevValue: v, lazy: true})
	if err != nil && ctx.Err() == nil {
		d.log.Error("an expired object was not deleted", "key", e.res.prefix+e.key, "err", err)
	}
}

// marks remember which revision was the latest when.
type marks []mark

type mark struct {
	rev int64
	at  time.Time
}

// sweep forgets what has become too old: changes, snapshots, and the revisions that can be listed. It says whether a
// revision has to pass: a continue token ends, as upstream's does, also while nobody writes.
func (d *DB) sweep(m *marks) (idle bool) {
	now := d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(*m); n == 0 || now.Sub((*m)[n-1].at) >= sweepInterval/2 {
		*m = append(*m, mark{d.rev, now})
	}
	for len(*m) > 1 && now.Sub((*m)[0].at) >= d.opts.SnapshotAge {
		if (*m)[0].rev > d.opened {
			d.compact((*m)[0].rev)
		}
		*m = (*m)[1:]
	}
	for _, r := range d.resources {
		r.ring.trim(d.opts.RingBytes, d.opts.RingAge, now)
	}
	for r := range d.pinned {
		if p := r.pins[len(r.pins)-1]; p.rev == d.rev && now.Sub(p.at) >= d.opts.SnapshotAge/2 {
			idle = true
		}
	}
	d.trimPins(now)
	return idle
}
