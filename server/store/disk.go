package store

import (
	"errors"
)

// checkpointPages is how long the log may grow: about 8 MB.
var checkpointPages int64 = 16000

// disk is the file as its one writer sees it.
type disk struct {
	conn   *conn
	put    *stmt
	del    *stmt
	length *stmt // of the log

	reserved     int64 // no revision above it was handed out
	lastRow      int64
	lastResource int64
	commits      int64
	failure      error // after which nothing is written

	failed func(step string) error // for tests
}

func (k *disk) prepare() (err error) {
	// An upsert and not a replace: only so SQLite overwrites a row of equal size in place.
	if k.put, err = k.conn.prepare("insert into objects(id, resource, key, revision, expires, size, value) values(?, ?, ?, ?, ?, ?, ?) on conflict(id) do update set revision = excluded.revision, expires = excluded.expires, size = excluded.size, value = excluded.value"); err != nil {
		return err
	}
	if k.del, err = k.conn.prepare("delete from objects where id = ?"); err != nil {
		return err
	}
	k.length, err = k.conn.prepare("pragma wal_checkpoint(noop)")
	return err
}

// write carries a plan out in one transaction.
func (k *disk) write(p *plan) error {
	if !p.durable() {
		return nil
	}
	if k.failure != nil {
		return k.failure
	}
	if err := k.conn.exec("begin immediate"); err != nil {
		return err
	}
	resources := k.lastResource
	fresh, err := k.fill(p)
	if err == nil && k.failed != nil {
		err = k.failed("commit")
	}
	if err == nil {
		err = k.conn.exec("commit")
	}
	if err != nil {
		for _, r := range fresh {
			r.id = 0
		}
		k.lastResource = resources
		// SQLite has rolled back by itself after some errors, and says so.
		if !k.conn.raw.AutoCommit() {
			err = errors.Join(err, k.conn.exec("rollback"))
		}
		return err
	}
	if p.reserve != 0 {
		k.reserved = p.reserve
	}
	return nil
}

// fill stages a plan in the open transaction, and gives the resources that got their number in it.
func (k *disk) fill(p *plan) (fresh []*resource, err error) {
	for _, w := range p.rows {
		if w.item == nil {
			if err := k.del.exec(w.row); err != nil {
				return fresh, err
			}
			continue
		}
		res := w.key.res
		if res.id == 0 {
			if err := k.conn.exec("insert into resources(id, prefix) values(?, ?)", k.lastResource+1, res.prefix); err != nil {
				return fresh, err
			}
			k.lastResource++
			res.id = k.lastResource
			fresh = append(fresh, res)
		}
		if err := k.put.exec(w.row, res.id, w.item.key, w.item.rev, w.item.expires, int64(w.item.size), w.packed); err != nil {
			return fresh, err
		}
	}
	if p.reserve != 0 {
		return fresh, k.conn.exec("update meta set reserved = ?", p.reserve)
	}
	return fresh, nil
}

func (k *disk) logIsLong() bool {
	var pages int64
	err := k.length.query(func(r row) error {
		pages = r[1].(int64)
		return nil
	})
	return err == nil && pages >= checkpointPages
}

func (k *disk) checkpoint(mode string) error {
	if k.failed != nil {
		if err := k.failed("checkpoint"); err != nil {
			return err
		}
	}
	return k.conn.query("pragma wal_checkpoint("+mode+")", func(row) error { return nil })
}

func (k *disk) close() error {
	for _, s := range []*stmt{k.put, k.del, k.length} {
		if s != nil {
			s.close()
		}
	}
	return k.conn.close()
}
