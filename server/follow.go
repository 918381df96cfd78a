package server

import (
	"context"
	"errors"

	"bramble.dev/server/cache"
	"bramble.dev/server/store"
)

// source lets the caches follow the store, which neither knows of the other.
type source struct{ db store.Store }

func (s source) Follow(prefix string) (cache.Follower, error) {
	f, err := s.db.Follow(prefix)
	if err != nil {
		return nil, err
	}
	return follower{f}, nil
}

type follower struct{ *store.Follower }

func (f follower) Snapshot() []cache.KeyValue {
	in := f.Follower.Snapshot()
	out := make([]cache.KeyValue, len(in))
	for i, kv := range in {
		out[i] = cache.KeyValue(kv)
	}
	return out
}

func (f follower) Next(ctx context.Context) ([]cache.Event, error) {
	in, err := f.Follower.Next(ctx)
	if errors.Is(err, store.ErrTooOld) {
		return nil, cache.ErrTooOld
	}
	if err != nil {
		return nil, err
	}
	out := make([]cache.Event, len(in))
	for i, e := range in {
		out[i] = cache.Event(e)
	}
	return out, nil
}
