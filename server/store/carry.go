package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// Object is an object on its way between a database and another store, as it is stored: encrypted where it is.
type Object struct {
	Prefix   string // of its resource: "/registry/pods/"
	Key      string // below the prefix: "ns/name"
	Revision int64
	Expires  int64 // Unix seconds; 0: never
	Value    []byte
}

// Write makes a database of the objects that each visits, at a new path. It is verified, and has an incarnation of its own and revisions
// above the given one.
func Write(ctx context.Context, path string, revision int64, each func(visit func(Object) error) error) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("write %s: it exists already", path)
	}
	if err = fill(path, max(revision, firstRevision(time.Now())), each); err == nil {
		err = verify(ctx, path)
	}
	if err != nil {
		os.Remove(path)
		return errors.Join(fmt.Errorf("write %s: %w", path, err), removeLog(path))
	}
	return nil
}

func fill(path string, revision int64, each func(visit func(Object) error) error) (err error) {
	c, err := openWriter(path, revision)
	if err != nil {
		return err
	}
	k := disk{conn: c}
	defer func() { err = errors.Join(err, k.close()) }()
	if err := k.prepare(); err != nil {
		return err
	}
	if err := c.exec("begin immediate"); err != nil {
		return err
	}
	resources := map[string]*resource{}
	err = each(func(o Object) error {
		r := resources[o.Prefix]
		if r == nil {
			r = newResource(0, o.Prefix, 0)
			resources[o.Prefix] = r
		}
		k.lastRow++
		it := newItem(o.Key, o.Revision, o.Value)
		it.expires = o.Expires
		_, err := k.fill(&plan{rows: []rowWrite{{key: stagedKey{r, o.Key}, row: k.lastRow, item: it, packed: pack(o.Value)}}})
		return err
	})
	if err != nil {
		return err
	}
	if err := c.exec("commit"); err != nil {
		return err
	}
	return k.checkpoint("truncate")
}

// Read visits the objects of a database that no server uses, in no order.
func Read(ctx context.Context, path string, visit func(Object) error) error {
	if err := checkPresent(path); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	c, err := openConn(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	defer c.close()
	err = c.query("select r.prefix, o.key, o.revision, o.expires, o.value from objects o join resources r on r.id = o.resource", func(r row) error {
		value, err := unpack(r[4].([]byte))
		if err != nil {
			return fmt.Errorf("%v%v: %w", r[0], r[1], err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return visit(Object{r[0].(string), r[1].(string), r[2].(int64), r[3].(int64), value})
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}
