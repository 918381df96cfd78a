package store

import (
	"context"
	"fmt"
	"time"
)

// CompactForTest forgets what was before a revision, as time does.
func (d *DB) CompactForTest(rev int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.compact(rev)
	for _, r := range d.resources {
		for len(r.ring.changes) > 0 && r.ring.changes[0].rev <= rev {
			r.ring.oldest = r.ring.changes[0].rev
			r.ring.changes = r.ring.changes[1:]
		}
	}
}

// CompactForTest forgets what was before a revision.
func (m *Mirror) CompactForTest(rev int64) { m.db.CompactForTest(rev) }

// BumpForTest uses up a revision, as a write to some other resource does.
func (d *DB) BumpForTest(ctx context.Context) int64 {
	r := d.resource("/registry/bump/")
	for {
		st := d.latest(r, "x")
		var prev []byte
		if st.item != nil {
			prev, _ = d.value(st.item)
		}
		c, _, err := d.submit(ctx, write{res: r, key: "x", expect: st.rev(), value: []byte("ok"), prevValue: prev})
		if err != nil {
			panic(err)
		}
		if c != nil {
			return c.rev
		}
	}
}

// StoredForTest gives what the file holds of a key ("/registry/pods/ns/name").
func (d *DB) StoredForTest(prefix, key string) ([]byte, error) {
	it, _ := d.get(d.resource(prefix), key)
	if it == nil {
		return nil, nil
	}
	v, _, err := d.reader.read(it.row)
	return v, err
}

// CheckpointForTest empties the log, as it happens every few thousand pages.
func (d *DB) CheckpointForTest() {
	if err := d.disk.checkpoint("passive"); err != nil {
		panic(err)
	}
}

func SetClockForTest(o *Options, now func() time.Time) { o.now = now }

// SetFailureForTest is asked before each commit and checkpoint; it may fail, wait, or count.
func SetFailureForTest(o *Options, failed func(step string) error) { o.failed = failed }

// LongLogForTest makes every 16th commit find the log long.
func LongLogForTest(t interface{ Cleanup(func()) }) {
	was := checkpointPages
	checkpointPages = 1
	t.Cleanup(func() { checkpointPages = was })
}

// StagedForTest is how many writes wait for the next commit.
func (d *DB) StagedForTest() int {
	d.stage.mu.Lock()
	defer d.stage.mu.Unlock()
	return len(d.stage.open.changes)
}

var (
	PackForTest   = pack
	UnpackForTest = unpack
)

// Backup copies the database with all that was written so far, while it is in use.
func (d *DB) Backup(ctx context.Context, path string) error {
	if err := d.flush(); err != nil {
		return fmt.Errorf("back up %s: %w", d.opts.Path, err)
	}
	if err := copyDatabase(ctx, d.opts.Path, path); err != nil {
		return fmt.Errorf("back up %s: %w", d.opts.Path, err)
	}
	return nil
}

// flush writes the volatile class and waits until it is on disk.
func (d *DB) flush() error {
	s := &d.stage
	s.mu.Lock()
	if err := s.refusal(); err != nil {
		s.mu.Unlock()
		return err
	}
	b := s.open
	b.flush = true
	s.mu.Unlock()
	return d.finish(b)
}
