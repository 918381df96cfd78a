package cache

import (
	"context"
	"log/slog"
	"sync"
)

// Counter counts the objects of a resource in each namespace, without keeping
// or decoding any of them.
type Counter struct {
	source Source
	prefix string
	log    *slog.Logger

	mu       sync.Mutex
	counts   map[string]int
	handlers []func(namespace string)
}

func newCounter(source Source, prefix string, log *slog.Logger) *Counter {
	return &Counter{source: source, prefix: prefix, log: log.With("prefix", prefix), counts: map[string]int{}}
}

// Count is the number of objects in a namespace.
func (c *Counter) Count(namespace string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[namespace]
}

// OnChange calls handler, which only enqueues, with each namespace whose number changed.
func (c *Counter) OnChange(handler func(namespace string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handlers = append(c.handlers, handler)
}

func (c *Counter) start() (Follower, error) {
	f, err := c.source.Follow(c.prefix)
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for _, kv := range f.Snapshot() {
		namespace, _ := nameOf(c.prefix, kv.Key)
		counts[namespace]++
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.counts
	c.counts = counts
	for namespace, n := range before {
		if counts[namespace] != n {
			c.tell(namespace)
		}
	}
	for namespace := range counts {
		if _, had := before[namespace]; !had {
			c.tell(namespace)
		}
	}
	return f, nil
}

func (c *Counter) tell(namespace string) {
	for _, h := range c.handlers {
		h(namespace)
	}
}

func (c *Counter) follow(ctx context.Context, f Follower) error {
	for {
		events, err := f.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			c.apply(e)
		}
	}
}

func (c *Counter) apply(e Event) {
	change := 0
	switch {
	case e.Value == nil:
		change = -1
	case e.Previous == nil:
		change = 1
	default:
		return
	}
	namespace, _ := nameOf(c.prefix, e.Key)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts[namespace] += change; c.counts[namespace] <= 0 {
		delete(c.counts, namespace)
	}
	c.tell(namespace)
}
