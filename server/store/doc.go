// Package store keeps the cluster's objects in one SQLite file and implements upstream's storage.Interface on it.
//
// On disk there are the present objects and nothing else: one plain table, one writer, no index, because the writer
// finds every key in memory. History lives in memory: per resource a copy-on-write tree of the present objects and a
// ring of the latest changes, from which watches resume and exact lists are rebuilt. What is older than the ring, or
// from before a restart, is 410 Gone, and clients list again.
//
// Invariants:
//   - a write is acknowledged, and seen by readers and watchers, only after its commit has been synced to disk;
//   - a revision is handed out once, across crashes too: revisions are reserved ahead on disk;
//   - after a failed sync nothing is tried again: the process ends, and the next one recovers from the log.
//
// The one exception to the first is the volatile class: what a resource's VolatileFunc accepts (a Lease's renewTime,
// Events, heartbeats) is acknowledged from memory and reaches the disk with a later commit or at Close. A crash may
// lose it; a clean stop does not.
//
//	db, err := store.Open(ctx, store.Options{Path: "/var/lib/bramble/server/state.db", Logger: logger})
//	pods := db.Storage(store.Resource{Prefix: "/pods", Codec: codec, New: newPod})
//	err = pods.Create(ctx, "/pods/default/web", pod, out, 0)
package store
