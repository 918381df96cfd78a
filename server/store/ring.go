package store

import (
	"cmp"
	"slices"
	"time"
)

// change is one write: staged, committed, then visible and remembered in its resource's ring.
type change struct {
	res  *resource
	key  string
	rev  int64
	item *item // nil: deleted
	prev *item // nil: created; its value is in memory
	lazy bool  // volatile: needs no commit of its own
	at   time.Time

	packed []byte // for the row; dropped once written
	batch  *batch // dropped once visible
}

func (c *change) cost() int {
	n := 160 + len(c.key)
	if c.prev != nil {
		n += int(c.prev.size)
	}
	if c.item == nil {
		return n
	}
	return n + 160
}

const (
	// A change younger than this is dropped only at ringSlack times the bound, so that a watcher which keeps up is
	// not cut off by one large batch.
	ringGrace = 10 * time.Second
	ringSlack = 16

	// chunkBytes bounds what a watcher takes of the ring at a time: while its client does not read, it keeps that.
	chunkBytes = 256 << 10
)

// ring holds a resource's latest changes in revision order: every one after oldest. It is bounded in bytes and in
// time; a watcher that fell behind it is cut off.
type ring struct {
	changes []change
	oldest  int64 // all changes with a greater revision are here
	bytes   int
}

func (g *ring) add(c change) {
	g.changes = append(g.changes, c)
	g.bytes += c.cost()
}

func (g *ring) trim(limit int, keep time.Duration, now time.Time) {
	n := 0
	for ; n < len(g.changes); n++ {
		age := now.Sub(g.changes[n].at)
		over := g.bytes > limit && (age > ringGrace || g.bytes > limit*ringSlack)
		if !over && age <= keep {
			break
		}
		g.bytes -= g.changes[n].cost()
		g.oldest = g.changes[n].rev
	}
	if n == 0 {
		return
	}
	clear(g.changes[:n])
	g.changes = g.changes[n:]
	if len(g.changes) == 0 {
		g.changes = nil
	} else if cap(g.changes) > 64 && len(g.changes) < cap(g.changes)/4 {
		g.changes = slices.Clone(g.changes)
	}
}

// after gives up to limit changes that follow rev, and no more than chunkBytes unless the first is larger; false when some of them
// are no longer here.
func (g *ring) after(rev int64, limit int) ([]change, bool) {
	if rev < g.oldest {
		return nil, false
	}
	i, _ := slices.BinarySearchFunc(g.changes, rev+1, func(c change, rev int64) int { return cmp.Compare(c.rev, rev) })
	found := g.changes[i:]
	if len(found) > limit {
		found = found[:limit]
	}
	bytes := 0
	for n := range found {
		if bytes += found[n].cost(); bytes > chunkBytes && n > 0 {
			found = found[:n]
			break
		}
	}
	return slices.Clone(found), true
}

// last is the revision of the latest change that is known of.
func (g *ring) last() int64 {
	if n := len(g.changes); n > 0 {
		return g.changes[n-1].rev
	}
	return g.oldest
}
