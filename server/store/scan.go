package store

import (
	"database/sql/driver"
	"fmt"
	"strings"

	"github.com/google/btree"
)

// readGroup is how many values one query brings from disk.
const readGroup = 64

// scan visits the objects from a key on and below a prefix, in order, with their values; visit says whether to go on.
// Values that are on disk are read in groups, of at most the size that group allows.
func (d *DB) scan(tree *btree.BTreeG[*item], from, prefix string, group func() int, visit func(*item, []byte) (bool, error)) error {
	var pending []*item
	var err error
	more := true
	flush := func() bool {
		var values [][]byte
		if values, err = d.values(pending); err != nil {
			return false
		}
		for i, it := range pending {
			if more, err = visit(it, values[i]); err != nil || !more {
				return false
			}
		}
		pending = pending[:0]
		return true
	}
	size := min(group(), readGroup)
	tree.AscendGreaterOrEqual(&item{key: max(from, prefix)}, func(it *item) bool {
		if !strings.HasPrefix(it.key, prefix) {
			return false
		}
		if pending = append(pending, it); len(pending) < size {
			return true
		}
		ok := flush()
		size = min(group(), readGroup)
		return ok
	})
	if err == nil && more && len(pending) > 0 {
		flush()
	}
	return err
}

func wholeGroups() int { return readGroup }

// values gives the bytes of several items. What a scan reads does not stay in memory.
func (d *DB) values(items []*item) ([][]byte, error) {
	values := make([][]byte, len(items))
	var cold []driver.Value
	var where []int
	for i, it := range items {
		v, ok := it.inMemory()
		if ok {
			values[i] = v
			continue
		}
		cold = append(cold, it.row)
		where = append(where, i)
	}
	if len(cold) == 0 {
		return values, nil
	}
	found, err := d.reader.readMany(cold)
	if err != nil {
		return nil, err
	}
	for _, i := range where {
		it := items[i]
		if f, ok := found[it.row]; ok && f.rev == it.rev {
			if values[i], err = unpack(f.packed); err != nil {
				return nil, fmt.Errorf("read %q: %w", it.key, err)
			}
			continue
		}
		if values[i], err = d.value(it); err != nil { // it has been overwritten, and is in memory now
			return nil, err
		}
	}
	return values, nil
}

type packedRow struct {
	rev    int64
	packed []byte
}

func (r *reader) readMany(ids []driver.Value) (map[int64]packedRow, error) {
	found := make(map[int64]packedRow, len(ids))
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(ids) > 0 {
		n := min(len(ids), readGroup)
		group := make([]driver.Value, readGroup)
		for i := range group {
			group[i] = ids[min(i, n-1)]
		}
		ids = ids[n:]
		err := r.many.query(func(c row) error {
			found[c[0].(int64)] = packedRow{c[1].(int64), c[2].([]byte)}
			return nil
		}, group...)
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}
