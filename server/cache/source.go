package cache

import (
	"context"
	"errors"
)

// ErrTooOld is returned by Follower.Next when changes were missed: the caller
// must follow again and compare.
var ErrTooOld = errors.New("the changes since the last read are no longer kept")

// KeyValue is one encoded object as the store keeps it.
type KeyValue struct {
	Key      string
	Revision int64
	Value    []byte
}

// Event is one change. A nil Value is a deletion.
type Event struct {
	Key      string
	Revision int64
	Value    []byte
	Previous []byte
}

// Source gives the present objects under a prefix and every change after them.
type Source interface {
	Follow(prefix string) (Follower, error)
}

// Follower is one reader's place in the changes of a prefix. Its methods are
// called by one goroutine, Close by any.
type Follower interface {
	Snapshot() []KeyValue
	// Revision is the one up to which everything has been given, at first by the snapshot.
	Revision() int64
	Next(ctx context.Context) ([]Event, error)
	Close()
}
