package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apiserver/pkg/storage/value"
)

// ErrTooOld tells a follower that it has fallen behind what the store remembers: follow again.
var ErrTooOld = errors.New("the follower has fallen behind")

// KeyValue is an object as it is stored, decrypted. Value must not be changed.
type KeyValue struct {
	Key      string // "/registry/pods/ns/name"
	Revision int64
	Value    []byte
}

// Event is one change. Value is nil when the object was deleted, Previous when it was created.
type Event struct {
	Key             string
	Revision        int64
	Value, Previous []byte
}

// Follower gives a resource's objects at one revision, and then everything after it. It holds nothing in the store:
// what is not fetched in time is dropped there, and Next says so.
type Follower struct {
	db       *DB
	res      *resource
	snapshot []KeyValue
	rev      int64
}

const followChunk = 256

// Follow begins with the present objects under a resource's whole prefix ("/registry/pods").
func (d *DB) Follow(prefix string) (*Follower, error) {
	prefix = cleanPrefix(prefix)
	if !strings.HasPrefix(prefix, root+"/") {
		return nil, fmt.Errorf("follow %q: it is not below %q", prefix, root)
	}
	f := &Follower{db: d, res: d.resource(prefix)}
	tree, rev := d.present(f.res)
	f.rev = rev
	f.snapshot = make([]KeyValue, 0, tree.Len())
	err := d.scan(tree, "", "", wholeGroups, func(it *item, stored []byte) (bool, error) {
		v, err := f.decrypt(it, stored)
		f.snapshot = append(f.snapshot, KeyValue{prefix + it.key, it.rev, v})
		return true, err
	})
	if err != nil {
		return nil, fmt.Errorf("follow %q: %w", prefix, err)
	}
	return f, nil
}

// Stand says how many objects lie under a resource's whole prefix, and the revision of their latest change: a reader that
// has followed up to it knows everything that any other reader can know.
func (d *DB) Stand(prefix string) (objects int, changed int64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	r := d.resources[cleanPrefix(prefix)]
	if r == nil {
		return 0, d.opened
	}
	return r.tree.Len(), r.ring.last()
}

// Size says how many objects lie under a resource's whole prefix, and how many bytes these have as they were written.
func (d *DB) Size(prefix string) (objects, bytes int64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if r := d.resources[cleanPrefix(prefix)]; r != nil {
		return int64(r.tree.Len()), r.bytes
	}
	return 0, 0
}

// Snapshot gives the objects that the follower began with, once.
func (f *Follower) Snapshot() []KeyValue {
	s := f.snapshot
	f.snapshot = nil
	return s
}

// Revision is the one up to which everything has been given.
func (f *Follower) Revision() int64 { return f.rev }

// Next waits for the next changes.
func (f *Follower) Next(ctx context.Context) ([]Event, error) {
	for {
		news, wake, err := f.news()
		if err != nil {
			return nil, err
		}
		if len(news) > 0 {
			return f.events(news)
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-f.db.closing:
			return nil, ErrClosed
		}
	}
}

func (f *Follower) news() ([]change, <-chan struct{}, error) {
	f.db.mu.RLock()
	defer f.db.mu.RUnlock()
	if f.res.ring.last() <= f.rev {
		f.rev = max(f.rev, f.db.rev)
		return nil, f.res.wake, nil
	}
	news, ok := f.res.ring.after(f.rev, followChunk)
	if !ok {
		return nil, nil, ErrTooOld
	}
	return news, nil, nil
}

func (f *Follower) events(news []change) ([]Event, error) {
	events := make([]Event, len(news))
	for i, c := range news {
		e := Event{Key: f.res.prefix + c.key, Revision: c.rev}
		var err error
		if c.item != nil {
			e.Value, err = f.value(c.item)
		}
		if err == nil && c.prev != nil {
			e.Previous, err = f.value(c.prev)
		}
		if err != nil {
			return nil, fmt.Errorf("follow %s: %w", e.Key, err)
		}
		events[i] = e
	}
	f.rev = news[len(news)-1].rev
	return events, nil
}

func (f *Follower) value(it *item) ([]byte, error) {
	v, err := f.db.value(it)
	if err != nil {
		return nil, err
	}
	return f.decrypt(it, v)
}

func (f *Follower) decrypt(it *item, stored []byte) ([]byte, error) {
	t := f.res.transformer.Load()
	if t == nil {
		return stored, nil
	}
	v, _, err := (*t).TransformFromStorage(context.Background(), stored, value.DefaultContext(f.res.prefix+it.key))
	return v, err
}

// Close ends the follower; a Next that waits is ended by its context.
func (f *Follower) Close() { f.snapshot = nil }
