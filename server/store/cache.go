package store

import "sync"

// cache bounds how many bytes of present values stay in memory. Values that have been read since they came up for
// dropping get a second chance; the others are read from disk when they are asked for. Values that the disk does not
// hold, or that history refers to, are pinned and not counted here: the volatile class and the rings have bounds of
// their own.
type cache struct {
	mu     sync.Mutex
	limit  int64
	bytes  int64
	oldest *item
	newest *item
}

// add takes a value that is on disk as well.
func (c *cache) add(it *item) {
	c.mu.Lock()
	defer c.mu.Unlock()
	it.unsaved = false
	if it.history || it.linked(c) || it.val.Load() == nil {
		return
	}
	c.link(it)
	c.bytes += int64(it.size)
	for c.bytes > c.limit && c.oldest != nil {
		it := c.oldest
		c.unlink(it)
		if it.used.Swap(false) {
			c.link(it)
			continue
		}
		c.bytes -= int64(it.size)
		it.val.Store(nil)
	}
}

// offer takes a value that a reader has fetched from disk.
func (c *cache) offer(it *item, value []byte) {
	c.mu.Lock()
	fresh := it.val.Load() == nil
	if fresh {
		it.keep(value)
	}
	c.mu.Unlock()
	if fresh {
		c.add(it)
	}
}

// pin keeps the value in memory for as long as anybody refers to the item.
func (c *cache) pin(it *item, value []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if it.linked(c) {
		c.unlink(it)
		c.bytes -= int64(it.size)
	}
	it.history = true
	if it.val.Load() == nil {
		it.keep(value)
	}
}

// restore undoes pin: the item is still the present one.
func (c *cache) restore(it *item) {
	c.mu.Lock()
	it.history = false
	unsaved := it.unsaved
	c.mu.Unlock()
	if !unsaved {
		c.add(it)
	}
}

func (it *item) linked(c *cache) bool { return it.older != nil || c.oldest == it }

func (c *cache) link(it *item) {
	it.older = c.newest
	if c.newest != nil {
		c.newest.newer = it
	} else {
		c.oldest = it
	}
	c.newest = it
}

func (c *cache) unlink(it *item) {
	if it.older != nil {
		it.older.newer = it.newer
	} else {
		c.oldest = it.newer
	}
	if it.newer != nil {
		it.newer.older = it.older
	} else {
		c.newest = it.older
	}
	it.older, it.newer = nil, nil
}
