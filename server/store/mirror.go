package store

import (
	"context"
	"strings"

	"github.com/google/btree"
	"k8s.io/apiserver/pkg/storage"
)

// Mirror is a copy in memory of objects that another database keeps. Whoever feeds it tells it of every change, in order; those who
// read, list, watch and follow find in it what they find in a DB. Nothing is written through it.
type Mirror struct {
	db       *DB
	advanced chan struct{} // closed when the revision grows; nil if nobody waits. By db.mu
}

// NewMirror makes an empty one. Of the options it heeds those of memory and of time.
func NewMirror(incarnation string, o Options) *Mirror {
	o = o.withDefaults()
	life, stop := context.WithCancel(context.Background())
	d := &DB{
		opts: o, log: o.Logger, incarnation: incarnation, resources: map[string]*resource{}, pinned: map[*resource]struct{}{},
		expiry: newExpiry(), unclaimed: newResource(0, root+"/", 0), closing: life.Done(), stop: stop,
	}
	d.stage.start(0)
	d.stage.closed = true // to writers
	d.ending.Go(func() { d.runJanitor(life) })
	return &Mirror{db: d}
}

// Close ends watches and followers.
func (m *Mirror) Close() {
	m.db.mu.Lock() // no watch begins any more
	m.db.stop()
	m.db.mu.Unlock()
	m.db.ending.Wait()
}

// Local reads a resource.
func (m *Mirror) Local(r Resource) storage.Interface { return m.db.objects(r) }

// Follow begins with the present objects under a resource's whole prefix ("/registry/pods").
func (m *Mirror) Follow(prefix string) (*Follower, error) { return m.db.Follow(prefix) }

// Stand says how many objects lie under a resource's whole prefix, and the revision of their latest change.
func (m *Mirror) Stand(prefix string) (objects int, changed int64) {
	m.db.mu.RLock()
	_, known := m.db.resources[cleanPrefix(prefix)]
	m.db.mu.RUnlock()
	if !known {
		m.db.resource(cleanPrefix(prefix)) // what is there is counted, and each change from now on is noted
	}
	return m.db.Stand(prefix)
}

// Size says how many objects lie under a resource's whole prefix, and how many bytes these have as they were written.
func (m *Mirror) Size(prefix string) (objects, bytes int64) { return m.db.Size(prefix) }

// Remembers says whether every change under a resource's whole prefix after a revision is known here.
func (m *Mirror) Remembers(prefix string, rev int64) bool {
	r := m.db.resource(cleanPrefix(prefix))
	m.db.mu.RLock()
	defer m.db.mu.RUnlock()
	return rev >= r.ring.oldest
}

// Incarnation is what NewMirror was told.
func (m *Mirror) Incarnation() string { return m.db.incarnation }

// Revision is the one up to which everything has been told.
func (m *Mirror) Revision() int64 { return m.db.Revision() }

// Until waits until everything up to a revision has been told.
func (m *Mirror) Until(ctx context.Context, rev int64) error {
	for {
		advanced := m.waitPast(rev)
		if advanced == nil {
			return nil
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-m.db.closing:
			return ErrClosed
		}
	}
}

// waitPast is closed at the next change; nil when a revision has been reached.
func (m *Mirror) waitPast(rev int64) <-chan struct{} {
	m.db.mu.Lock()
	defer m.db.mu.Unlock()
	if m.db.rev >= rev {
		return nil
	}
	if m.advanced == nil {
		m.advanced = make(chan struct{})
	}
	return m.advanced
}

// Replace makes the copy equal to what the database held at a revision, of which all that was before is unknown: whoever follows or
// watches begins anew.
func (m *Mirror) Replace(objects []KeyValue, rev int64) {
	d := m.db
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opened = rev
	for _, r := range d.resources {
		r.empty(rev)
	}
	d.unclaimed.empty(rev)
	for _, o := range objects {
		r, key := d.owner(o.Key)
		it := newItem(key, o.Revision, o.Value)
		r.tree.ReplaceOrInsert(it)
		r.bytes += int64(it.size)
	}
	m.advance(rev)
	for _, r := range d.resources {
		r.wakeAll()
	}
}

// Apply takes in the changes that have brought the database to a revision: each key's in the order of their revisions. There may be
// none, where a revision is of something else.
func (m *Mirror) Apply(changes []Event, rev int64) {
	d := m.db
	now := d.now()
	touched := make(map[*resource]struct{}, 1)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range changes {
		r, key := d.owner(e.Key)
		c := change{res: r, key: key, rev: e.Revision, at: now}
		c.prev, _ = r.tree.Get(&item{key: key})
		if e.Value != nil {
			c.item = newItem(key, e.Revision, e.Value)
		}
		if c.item == nil && c.prev == nil {
			continue
		}
		if c.item != nil && c.prev != nil {
			c.item.key = c.prev.key // one string for all versions
		}
		r.apply(&c)
		if r != d.unclaimed {
			r.ring.add(c)
			touched[r] = struct{}{}
		}
	}
	m.advance(rev)
	d.told(touched, now)
}

// advance makes a revision the latest. db.mu is held.
func (m *Mirror) advance(rev int64) {
	m.db.rev = max(m.db.rev, rev)
	if m.advanced != nil {
		close(m.advanced)
		m.advanced = nil
	}
}

// empty forgets a resource's objects and history: it begins at a revision.
func (r *resource) empty(rev int64) {
	r.tree, r.snap = btree.NewG(32, byKey), nil
	r.ring = ring{oldest: rev}
	r.bytes = 0
}

// owner finds the resource that a whole key belongs to, and what of the key is below its prefix. What lies under no prefix that
// anybody has asked for is unclaimed. mu is held.
func (d *DB) owner(key string) (*resource, string) {
	owner := d.unclaimed
	for end := len(root) + 1; ; {
		n := strings.IndexByte(key[end:], '/')
		if n < 0 {
			return owner, key[len(owner.prefix):]
		}
		end += n + 1
		if r := d.resources[key[:end]]; r != nil {
			owner = r
		}
	}
}

// claim gives a new resource those of the unclaimed objects that are its own. Its history begins now. mu is held.
func (d *DB) claim(r *resource) {
	r.ring.oldest = d.rev
	below := r.prefix[len(d.unclaimed.prefix):]
	var found []*item
	d.unclaimed.tree.AscendGreaterOrEqual(&item{key: below}, func(it *item) bool {
		if !strings.HasPrefix(it.key, below) {
			return false
		}
		found = append(found, it)
		return true
	})
	for _, it := range found {
		d.unclaimed.tree.Delete(it)
		value, _ := it.inMemory() // as all of a mirror are
		own := newItem(it.key[len(below):], it.rev, value)
		r.tree.ReplaceOrInsert(own)
		r.bytes += int64(own.size)
	}
}
