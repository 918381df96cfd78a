package store

import (
	"time"

	"k8s.io/apimachinery/pkg/runtime"
)

// VolatileFunc says whether a write may be acknowledged from memory: it reaches the disk with a later commit or at
// Close, and a crash loses it. old is nil for a create. Deletes are never volatile, but what the disk has never held
// needs no write to go. The function must not change the objects.
type VolatileFunc func(old, new runtime.Object) bool

// volatile is what memory knows better than the disk. Only who has the turn to commit uses it.
type volatile struct {
	dirty   map[stagedKey]*item // present objects whose row is old or missing
	ghosts  map[stagedKey]int64 // rows of objects that have expired
	bytes   int64               // of the dirty values
	flushed time.Time
}

// planFlush lets the volatile class join a commit: when one happens anyway and the last time is long ago, when it has
// grown too large, or when it is asked for. An idle cluster never gets here, so it never writes.
func (d *DB) planFlush(b *batch, p *plan) {
	v := &d.volatile
	if v.flushed.IsZero() {
		v.flushed = p.at
	}
	due := len(p.rows) > 0 && p.at.Sub(v.flushed) >= d.opts.FlushInterval
	if !b.flush && !due && v.bytes <= d.opts.VolatileBytes {
		return
	}
	p.flush = true
	inBatch := make(map[stagedKey]bool, len(p.rows)+len(p.lazy)+len(p.gone))
	for _, k := range p.gone {
		inBatch[k] = true
	}
	for _, w := range p.rows {
		inBatch[w.key] = true
	}
	for _, w := range p.lazy {
		inBatch[w.key] = true
	}
	p.rows = append(p.rows, p.lazy...)
	p.lazy = nil
	for k, it := range v.dirty {
		if !inBatch[k] {
			p.rows = append(p.rows, rowWrite{key: k, row: it.row, item: it})
		}
	}
	for k, id := range v.ghosts {
		if !inBatch[k] {
			p.rows = append(p.rows, rowWrite{key: k, row: id})
		}
	}
}

// settled notes what a plan has left on disk, and what it has not.
func (v *volatile) settled(p *plan) {
	for _, w := range p.rows {
		v.forget(w.key)
	}
	for _, k := range p.gone {
		v.forget(k)
	}
	if p.flush {
		v.flushed = p.at
	}
	for _, w := range p.lazy {
		v.forget(w.key)
		if w.item == nil {
			put(&v.ghosts, w.key, w.row)
			continue
		}
		put(&v.dirty, w.key, w.item)
		v.bytes += int64(w.item.size)
	}
}

func (v *volatile) forget(k stagedKey) {
	if it := v.dirty[k]; it != nil {
		v.bytes -= int64(it.size)
		delete(v.dirty, k)
	}
	delete(v.ghosts, k)
}

func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[k] = v
}

// settle leaves the file as a clean stop should: the volatile class is in it, exactly the revisions in use are
// reserved, and the log is empty. Nobody commits any more.
func (d *DB) settle() error {
	p := d.plan(&batch{flush: true})
	if d.disk.reserved != d.rev {
		p.reserve = d.rev
	}
	if err := d.disk.write(p); err != nil {
		return err
	}
	return d.disk.checkpoint("truncate")
}
