package engine

import (
	"context"
	"sync"
)

// changes is a queue of pod UIDs in which each is at most once.
type changes struct {
	out  chan string
	wake chan struct{}

	mu      sync.Mutex
	pending []string
	queued  map[string]bool
}

func newChanges() *changes {
	return &changes{out: make(chan string), wake: make(chan struct{}, 1), queued: map[string]bool{}}
}

func (c *changes) add(uid string) {
	c.mu.Lock()
	if !c.queued[uid] {
		c.queued[uid] = true
		c.pending = append(c.pending, uid)
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *changes) take() (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) == 0 {
		return "", false
	}
	uid := c.pending[0]
	c.pending = c.pending[1:]
	return uid, true
}

func (c *changes) told(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.queued, uid)
}

// run hands out the queue until ctx is done.
func (c *changes) run(ctx context.Context) {
	for {
		uid, ok := c.take()
		if !ok {
			select {
			case <-c.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		c.told(uid) // before: a change from here on is a new one
		select {
		case c.out <- uid:
		case <-ctx.Done():
			return
		}
	}
}
