package store

import (
	"context"
	"fmt"
	"strings"
	"sync"
)

// load reads everything but the values.
func (d *DB) load(ctx context.Context) error {
	c := d.disk.conn
	if err := d.loadMeta(c); err != nil {
		return err
	}
	byID := map[int64]*resource{}
	err := c.query("select id, prefix from resources", func(r row) error {
		res := newResource(r[0].(int64), r[1].(string), d.opened)
		byID[res.id] = res
		d.resources[res.prefix] = res
		d.disk.lastResource = max(d.disk.lastResource, res.id)
		return nil
	})
	if err != nil {
		return err
	}
	return c.query("select id, resource, key, revision, expires, size from objects", func(r row) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		it := &item{row: r[0].(int64), key: r[2].(string), rev: r[3].(int64), expires: r[4].(int64), size: int32(r[5].(int64))}
		res := byID[r[1].(int64)]
		if res == nil {
			return fmt.Errorf("%w: row %d is of no known resource%s", ErrCorrupt, it.row, remedy)
		}
		if it.rev > d.opened {
			return fmt.Errorf("%w: row %d has revision %d, above the reserved %d%s", ErrCorrupt, it.row, it.rev, d.opened, remedy)
		}
		if _, twice := res.tree.ReplaceOrInsert(it); twice {
			return fmt.Errorf("%w: %s%s is there twice%s", ErrCorrupt, res.prefix, it.key, remedy)
		}
		res.bytes += int64(it.size)
		d.disk.lastRow = max(d.disk.lastRow, it.row)
		d.expiry.replace(res, nil, it)
		return nil
	})
}

// loadMeta starts at the reserved revision: whatever was handed out before is not above it.
func (d *DB) loadMeta(c *conn) error {
	n := 0
	err := c.query("select incarnation, reserved from meta", func(r row) error {
		d.incarnation, d.opened = r[0].(string), r[1].(int64)
		n++
		return nil
	})
	if err != nil {
		return err
	}
	if n != 1 {
		return fmt.Errorf("%w: it has no incarnation%s", ErrCorrupt, remedy)
	}
	d.rev = d.opened
	d.disk.reserved = d.opened
	return nil
}

// reader reads single values by row, on a connection of its own beside the writer's.
type reader struct {
	mu   sync.Mutex
	conn *conn
	one  *stmt
	many *stmt
}

func openReader(path string) (*reader, error) {
	c, err := openConn(path)
	if err != nil {
		return nil, err
	}
	r := &reader{conn: c}
	for _, q := range []string{"pragma query_only = 1", "pragma cache_size = -128"} {
		if err := c.exec(q); err != nil {
			c.close()
			return nil, err
		}
	}
	if r.one, err = c.prepare("select revision, value from objects where id = ?"); err == nil {
		r.many, err = c.prepare("select id, revision, value from objects where id in (?" + strings.Repeat(", ?", readGroup-1) + ")")
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return r, nil
}

// read gives a row's value and revision; revision 0 when the row is gone.
func (r *reader) read(id int64) (v []byte, rev int64, err error) {
	var packed []byte
	r.mu.Lock()
	err = r.one.query(func(c row) error {
		rev, packed = c[0].(int64), c[1].([]byte)
		return nil
	}, id)
	r.mu.Unlock()
	if err != nil || rev == 0 {
		return nil, 0, err
	}
	v, err = unpack(packed)
	return v, rev, err
}

func (r *reader) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.one.close()
	r.many.close()
	return r.conn.close()
}
