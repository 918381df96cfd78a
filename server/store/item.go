package store

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// item is one version of one object. All but the value is immutable once it is published; the value may leave memory
// while the row on disk holds it, and comes back for good before the row is overwritten.
type item struct {
	key     string // below the resource's prefix
	rev     int64
	row     int64 // on disk; 0: not there
	expires int64 // Unix seconds; 0: never
	size    int32

	unsaved bool // by cache.mu: the row does not hold this value yet
	history bool // by cache.mu: it has been replaced, or is about to be, and the row will hold another value
	used    atomic.Bool
	val     atomic.Pointer[byte]

	older, newer *item // by cache.mu: the list of values that may be dropped
}

func byKey(a, b *item) bool { return a.key < b.key }

func newItem(key string, rev int64, value []byte) *item {
	it := &item{key: key, rev: rev, size: int32(len(value))}
	it.keep(value)
	return it
}

func (it *item) keep(value []byte) {
	if len(value) == 0 {
		value = []byte{0}
	}
	it.val.Store(unsafe.SliceData(value))
}

// inMemory gives the value if it is at hand. Nobody may write to it.
func (it *item) inMemory() ([]byte, bool) {
	p := it.val.Load()
	if p == nil {
		return nil, false
	}
	return unsafe.Slice(p, it.size), true
}

// value gives the item's bytes, from disk when they are not in memory. Nobody may write to them.
func (d *DB) value(it *item) ([]byte, error) {
	if v, ok := it.inMemory(); ok {
		it.used.Store(true)
		return v, nil
	}
	v, rev, err := d.reader.read(it.row)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", it.key, err)
	}
	if rev == it.rev {
		return v, nil
	}
	// The row has been overwritten since; before that its value was brought back.
	if v, ok := it.inMemory(); ok {
		return v, nil
	}
	return nil, fmt.Errorf("read %q: row %d holds revision %d and not %d", it.key, it.row, rev, it.rev)
}
