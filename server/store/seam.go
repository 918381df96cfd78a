package store

import (
	"k8s.io/apiserver/pkg/storage"
)

// Store is what the API works on: a DB, which is one file of this machine, or server/store/etcd, which several machines share.
//
// Both promise that what a write has been acknowledged to a client of this process is seen by everyone in it who reads next: by
// Local, Follow and Stand.
type Store interface {
	// Storage gives upstream's interface to a resource.
	Storage(Resource) storage.Interface
	// Local reads a resource in this process' memory, or file: such a read neither waits nor fails for the sake of another machine,
	// and does not know what others have written there a moment ago. Nothing is written through it.
	Local(Resource) storage.Interface
	// Follow begins with the present objects under a resource's whole prefix ("/registry/pods").
	Follow(prefix string) (*Follower, error)
	// Stand says how many objects lie under a resource's whole prefix, and the revision of their latest change.
	Stand(prefix string) (objects int, changed int64)
	// Size says how many objects lie under a resource's whole prefix, and how many bytes these have as they were written.
	Size(prefix string) (objects, bytes int64)
	// Ready says why nothing can be written.
	Ready() error
	// Incarnation tells these objects from any others, and from themselves after a restore.
	Incarnation() string
	Close() error
}

var _ Store = (*DB)(nil)

// Local is Storage: all of it is on this machine.
func (d *DB) Local(r Resource) storage.Interface { return d.Storage(r) }
