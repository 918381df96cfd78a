package store

import (
	"strings"
	"sync/atomic"

	"github.com/google/btree"
	"k8s.io/apiserver/pkg/storage/value"
)

const root = "/registry"

// resource is what lies under one key prefix: the present objects, their latest changes, and the snapshots that lists
// hold. All of it is guarded by DB.mu.
type resource struct {
	id     int64  // in the table of resources; 0 until the first commit
	prefix string // "/registry/pods/"

	tree *btree.BTreeG[*item]
	snap *btree.BTreeG[*item] // a clone of tree, until the next change

	ring  ring
	pins  []pin
	wake  chan struct{} // closed at the next change
	asked int64         // progress requests so far
	bytes int64         // of all present values
	churn int64         // bytes replaced so far: what a snapshot may keep alive

	transformer atomic.Pointer[value.Transformer]
}

func newResource(id int64, prefix string, since int64) *resource {
	return &resource{
		id:     id,
		prefix: prefix,
		tree:   btree.NewG(32, byKey),
		ring:   ring{oldest: since},
		wake:   make(chan struct{}),
	}
}

// cleanPrefix turns "/registry/pods", or "/pods" under the root, into the form that keys begin with.
func cleanPrefix(p string) string {
	return "/" + strings.Trim(p, "/") + "/"
}

// resource finds or makes the resource of a whole prefix ("/registry/pods/").
func (d *DB) resource(prefix string) *resource {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.resources[prefix]
	if r == nil {
		r = newResource(0, prefix, d.opened)
		if d.unclaimed != nil {
			d.claim(r)
		}
		d.resources[prefix] = r
	}
	return r
}

// get finds a present object.
func (d *DB) get(r *resource, key string) (it *item, rev int64) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	it, _ = r.tree.Get(&item{key: key})
	return it, d.rev
}

// present gives the resource as it is now. Nobody may change the tree.
func (d *DB) present(r *resource) (*btree.BTreeG[*item], int64) {
	d.mu.RLock()
	t, rev := r.snap, d.rev
	d.mu.RUnlock()
	if t != nil {
		return t, rev
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return r.snapshot(), d.rev
}

func (r *resource) snapshot() *btree.BTreeG[*item] {
	if r.snap == nil {
		r.snap = r.tree.Clone()
	}
	return r.snap
}

// treeChurn is about what a change copies of a tree that a snapshot shares.
const treeChurn = 1 << 10

// apply makes a committed change visible.
func (r *resource) apply(c *change) {
	if c.item != nil {
		r.tree.ReplaceOrInsert(c.item)
		r.bytes += int64(c.item.size)
	} else {
		r.tree.Delete(&item{key: c.key})
	}
	if c.prev != nil {
		r.bytes -= int64(c.prev.size)
		r.churn += int64(c.prev.size)
	}
	r.churn += treeChurn
	r.snap = nil
}

func (r *resource) wakeAll() {
	close(r.wake)
	r.wake = make(chan struct{})
}
