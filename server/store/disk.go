package store

import (
	"encoding/binary"
	"errors"
	"os"
)

// checkpointPages is how long the log may grow.
const checkpointPages = 4000

// disk is the file as its one writer sees it.
type disk struct {
	conn *conn
	put  *stmt
	del  *stmt
	shm  *os.File // the log's index, for its length

	reserved     int64 // no revision above it was handed out
	lastRow      int64
	lastResource int64
	failure      error // after which nothing is written

	failed func(step string) error // for tests
}

func (k *disk) prepare(path string) (err error) {
	if k.put, err = k.conn.prepare("replace into objects(id, resource, key, revision, expires, size, value) values(?, ?, ?, ?, ?, ?, ?)"); err != nil {
		return err
	}
	if k.del, err = k.conn.prepare("delete from objects where id = ?"); err != nil {
		return err
	}
	k.shm, err = os.Open(path + "-shm")
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

// logIsLong reads the number of frames from the log's index; the layout is part of SQLite's file format.
func (k *disk) logIsLong() bool {
	const mxFrame = 16
	var b [4]byte
	if _, err := k.shm.ReadAt(b[:], mxFrame); err != nil {
		return false
	}
	return binary.NativeEndian.Uint32(b[:]) >= checkpointPages
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
	for _, s := range []*stmt{k.put, k.del} {
		if s != nil {
			s.close()
		}
	}
	err := k.conn.close()
	if k.shm != nil {
		k.shm.Close() // last: a process that closes a file gives up its locks on it, SQLite's too
	}
	return err
}
