package store

import (
	"fmt"
	"runtime/debug"
	"time"
)

// finish returns when the batch is on disk and visible, or has failed. There is no committer: of those who wait for the
// open batch, one has the turn and commits it. A goroutine for that would have to be woken, and wake the writer in its
// turn, which costs a lone writer more than the commit itself.
func (d *DB) finish(b *batch) error {
	select {
	case <-b.done:
	case d.stage.turn <- struct{}{}:
		// Whoever had the turn before has either committed b or left it open.
		select {
		case <-b.done:
		default:
			d.commitOpen()
		}
		<-d.stage.turn
	}
	return b.err
}

// commitOpen takes what has been staged, puts it on disk with one sync, and makes it visible. Only who has the turn
// calls it. A panic ends the process, for it leaves the disk in a state that nobody knows: it must not end in a handler
// that recovers.
func (d *DB) commitOpen() {
	defer func() {
		if r := recover(); r != nil {
			d.opts.Fatal(fmt.Errorf("commit: panic: %v\n%s", r, debug.Stack()))
		}
	}()
	if b := d.stage.take(); b != nil {
		d.commit(b)
	}
}

func (d *DB) commit(b *batch) {
	p := d.plan(b)
	if err := d.disk.write(p); err != nil {
		d.fail(b, err)
		return
	}
	d.volatile.settled(p)
	d.publish(b)
	d.stage.visible(b)
	for _, w := range p.rows {
		if w.item != nil {
			d.cache.add(w.item)
		}
	}
	close(b.done)
	if p.durable() {
		d.checkpoint()
	}
}

// rowWrite is what becomes of one object's row.
type rowWrite struct {
	key    stagedKey
	row    int64 // 0: none yet
	item   *item // nil: the object is gone
	packed []byte
	lazy   bool // can wait
}

// plan is what a commit does on disk.
type plan struct {
	rows    []rowWrite  // to be written now
	lazy    []rowWrite  // to be written later
	gone    []stagedKey // what the disk never knew of
	reserve int64       // 0: as it is
	flush   bool
	at      time.Time
}

func (p *plan) durable() bool { return len(p.rows) > 0 || p.reserve != 0 }

// plan keeps the last state of each object that the batch changes, and decides what has to be on disk now.
func (d *DB) plan(b *batch) *plan {
	p := &plan{at: d.now()}
	final := make([]rowWrite, 0, len(b.changes))
	index := make(map[stagedKey]int, len(b.changes))
	for _, c := range b.changes {
		k := stagedKey{c.res, c.key}
		i, seen := index[k]
		if !seen {
			i = len(final)
			index[k] = i
			final = append(final, rowWrite{key: k, row: d.rowOf(c), lazy: true})
		}
		w := &final[i]
		w.item, w.packed = c.item, c.packed
		w.lazy = w.lazy && c.lazy
		if c.item != nil {
			c.item.row = w.row
		}
	}
	for _, w := range final {
		switch {
		case w.item == nil && w.row == 0:
			p.gone = append(p.gone, w.key)
		case w.lazy:
			p.lazy = append(p.lazy, w)
		default:
			p.rows = append(p.rows, w)
		}
	}
	d.planFlush(b, p)
	d.planReserve(b, p)
	for i := range p.rows {
		w := &p.rows[i]
		if w.item != nil && w.row == 0 {
			d.disk.lastRow++
			w.row = d.disk.lastRow
			w.item.row = w.row
		}
		if w.item != nil && w.packed == nil {
			v, _ := w.item.inMemory() // unsaved, hence there
			w.packed = pack(v)
		}
	}
	return p
}

// rowOf finds the row that an object has, or had before it was lazily deleted.
func (d *DB) rowOf(c *change) int64 {
	if c.prev != nil {
		return c.prev.row
	}
	return d.volatile.ghosts[stagedKey{c.res, c.key}]
}

// planReserve sees that no revision of the batch is above the reserved ones, and renews the reserve early when
// something is written anyway.
func (d *DB) planReserve(b *batch, p *plan) {
	if b.rev == 0 {
		return
	}
	left := d.disk.reserved - b.rev
	if left < 0 || len(p.rows) > 0 && left < d.opts.Reserve/2 {
		p.reserve = b.rev + d.opts.Reserve
	}
}

// publish makes a committed batch visible, in revision order.
func (d *DB) publish(b *batch) {
	if b.rev == 0 {
		return
	}
	now := d.now()
	touched := make(map[*resource]struct{}, 1)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range b.changes {
		c.res.apply(c)
		d.expiry.replace(c.res, c.prev, c.item)
		seen := *c
		seen.packed, seen.batch, seen.at = nil, nil, now
		c.res.ring.add(seen)
		touched[c.res] = struct{}{}
	}
	d.rev = b.rev
	d.told(touched, now)
}

// told wakes those who watch resources that have changed, and forgets what has become too much. mu is held.
func (d *DB) told(touched map[*resource]struct{}, now time.Time) {
	for r := range touched {
		r.ring.trim(d.opts.RingBytes, d.opts.RingAge, now)
		r.wakeAll()
	}
	if len(d.pinned) > 0 {
		d.trimPins(now)
	}
}

// fail drops a batch that could not be committed. Only when the disk is full may the process go on: nothing was synced.
func (d *DB) fail(b *batch, err error) {
	if !diskFull(err) {
		err = fmt.Errorf("commit: %w", err)
		d.disk.failure = err
		d.opts.Fatal(err)
		d.stage.drop(b, err, true)
		return
	}
	d.log.Error("the disk is full: a write was refused", "err", err)
	err = fmt.Errorf("nothing was written: %w", err)
	dropped := d.stage.drop(b, err, false)
	for _, c := range dropped {
		if it, _ := d.get(c.res, c.key); it != nil && it == c.prev {
			d.cache.restore(it)
		}
	}
}

// checkpoint moves the log into the database once it is long. A large limit spares the card: a page that was written
// many times moves once.
func (d *DB) checkpoint() {
	// Asking for the length costs some microseconds; between two questions the log grows by some dozen commits.
	if d.disk.commits++; d.disk.commits%16 != 0 || !d.disk.logIsLong() {
		return
	}
	if err := d.disk.checkpoint("passive"); err != nil {
		if diskFull(err) {
			d.log.Error("the disk is full: the log grows", "err", err)
			return
		}
		d.disk.failure = fmt.Errorf("checkpoint: %w", err)
		d.opts.Fatal(d.disk.failure)
		d.stage.refuse(d.disk.failure)
	}
}
