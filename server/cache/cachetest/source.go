package cachetest

import (
	"context"
	"strings"
	"sync"

	"bramble.dev/server/cache"
)

// Source is a cache.Source in memory.
type Source struct {
	mu        sync.Mutex
	revision  int64
	values    map[string]cache.KeyValue
	followers map[*follower]struct{}
	failing   error
}

// NewSource makes an empty source.
func NewSource() *Source {
	return &Source{values: map[string]cache.KeyValue{}, followers: map[*follower]struct{}{}}
}

// Put stores a value and returns its revision.
func (s *Source) Put(key string, value []byte) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	previous := s.values[key].Value
	s.values[key] = cache.KeyValue{Key: key, Revision: s.revision, Value: value}
	s.send(cache.Event{Key: key, Revision: s.revision, Value: value, Previous: previous})
	return s.revision
}

// Next is the revision that the next write will get.
func (s *Source) Next() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revision + 1
}

// Delete removes a value.
func (s *Source) Delete(key string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	kv, ok := s.values[key]
	if !ok {
		return s.revision
	}
	s.revision++
	delete(s.values, key)
	s.send(cache.Event{Key: key, Revision: s.revision, Previous: kv.Value})
	return s.revision
}

// Quietly makes changes that no follower hears of and then breaks all of them.
func (s *Source) Quietly(change func()) {
	s.mu.Lock()
	old := s.followers
	s.followers = map[*follower]struct{}{}
	s.mu.Unlock()
	change()
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range old {
		f.broken = true
		f.wake()
	}
}

// Fail makes Follow return err until it is called with nil.
func (s *Source) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = err
}

func (s *Source) send(e cache.Event) {
	for f := range s.followers {
		if strings.HasPrefix(e.Key, f.prefix) {
			f.pending = append(f.pending, e)
			f.wake()
		}
	}
}

// Follow implements cache.Source.
func (s *Source) Follow(prefix string) (cache.Follower, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failing != nil {
		return nil, s.failing
	}
	f := &follower{source: s, revision: s.revision, prefix: strings.TrimSuffix(prefix, "/") + "/", awake: make(chan struct{}, 1)}
	for key, kv := range s.values {
		if strings.HasPrefix(key, f.prefix) {
			f.snapshot = append(f.snapshot, kv)
		}
	}
	s.followers[f] = struct{}{}
	return f, nil
}

type follower struct {
	source   *Source
	prefix   string
	snapshot []cache.KeyValue
	revision int64
	pending  []cache.Event
	broken   bool
	awake    chan struct{}
}

func (f *follower) wake() {
	select {
	case f.awake <- struct{}{}:
	default:
	}
}

func (f *follower) Snapshot() []cache.KeyValue { return f.snapshot }

func (f *follower) Revision() int64 { return f.revision }

func (f *follower) Next(ctx context.Context) ([]cache.Event, error) {
	for {
		f.source.mu.Lock()
		events, broken := f.pending, f.broken
		f.pending = nil
		f.source.mu.Unlock()
		if broken {
			return nil, cache.ErrTooOld
		}
		if len(events) > 0 {
			f.revision = events[len(events)-1].Revision
			return events, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-f.awake:
		}
	}
}

func (f *follower) Close() {
	f.source.mu.Lock()
	defer f.source.mu.Unlock()
	delete(f.source.followers, f)
}
