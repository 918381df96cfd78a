package store

import (
	"errors"
	"time"

	"github.com/google/btree"
)

var (
	errTooOld = errors.New("the revision is too old")
	errFuture = errors.New("the revision is in the future")
)

// pin is a snapshot that a continue token refers to. What it costs is what has changed since: the values and tree
// nodes that nothing else holds any more.
type pin struct {
	rev   int64
	at    time.Time
	tree  *btree.BTreeG[*item]
	churn int64 // resource.churn when it was taken
}

// at gives the resource as it was at a revision: now, at a pin, or undone from the ring.
func (d *DB) at(r *resource, rev int64) (*btree.BTreeG[*item], int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case rev > d.rev:
		return nil, d.rev, errFuture
	case rev < d.compacted:
		return nil, d.rev, errTooOld
	case rev >= r.ring.last():
		return r.snapshot(), d.rev, nil
	}
	for _, p := range r.pins {
		if p.rev == rev {
			return p.tree, d.rev, nil
		}
	}
	if rev < r.ring.oldest {
		return nil, d.rev, errTooOld
	}
	return r.undo(rev), d.rev, nil
}

// undo takes back what happened after rev.
func (r *resource) undo(rev int64) *btree.BTreeG[*item] {
	t := r.tree.Clone()
	for i := len(r.ring.changes) - 1; i >= 0 && r.ring.changes[i].rev > rev; i-- {
		c := r.ring.changes[i]
		if c.prev != nil {
			t.ReplaceOrInsert(c.prev)
		} else {
			t.Delete(&item{key: c.key})
		}
	}
	return t
}

// pin keeps a snapshot for the pages that follow.
func (d *DB) pin(r *resource, rev int64, t *btree.BTreeG[*item]) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range r.pins {
		if p.rev == rev {
			return
		}
	}
	r.pins = append(r.pins, pin{rev: rev, at: d.now(), tree: t, churn: r.churn})
	d.pinned[r] = struct{}{}
	if len(r.pins) > maxPins {
		d.unpin(r, len(r.pins)-maxPins)
	}
}

// maxPins bounds the snapshots of one resource; without changes between them they cost nothing.
const maxPins = 64

// trimPins drops the snapshots that are too old, and while all together cost too much the oldest of the resource that
// costs most. d.mu is held.
func (d *DB) trimPins(now time.Time) {
	for {
		var total, most int64
		var worst *resource
		for r := range d.pinned {
			n := 0
			for n < len(r.pins) && now.Sub(r.pins[n].at) > d.opts.SnapshotAge {
				n++
			}
			d.unpin(r, n)
			if len(r.pins) == 0 {
				continue
			}
			cost := r.churn - r.pins[0].churn
			total += cost
			if cost > most {
				most, worst = cost, r
			}
		}
		if total <= d.opts.SnapshotBytes || worst == nil {
			return
		}
		d.unpin(worst, 1)
	}
}

func (d *DB) unpin(r *resource, n int) {
	clear(r.pins[:n])
	r.pins = r.pins[n:]
	if len(r.pins) == 0 {
		r.pins = nil
		delete(d.pinned, r)
	}
}

// compact forgets what was before rev: lists at an older revision and their continue tokens expire.
func (d *DB) compact(rev int64) {
	if rev <= d.compacted {
		return
	}
	d.compacted = rev
	for r := range d.pinned {
		n := 0
		for n < len(r.pins) && r.pins[n].rev < rev {
			n++
		}
		d.unpin(r, n)
	}
}
