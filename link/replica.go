package link

// maxQueued bounds the bytes of items that wait to be applied. A source that keeps to the pace
// stays far below; what exceeds it is dropped and found by its digest.
const maxQueued = maxMessage + 1<<20

// maxBatch is how many bytes are applied at a time, unless one message is larger.
const maxBatch = 1 << 20

// replica follows a source. It answers questions from its present content and holds no state of
// the exchange, so that an agent is easily written.
type replica struct {
	id    SetID
	index *Set

	received uint64 // id of the newest items message that arrived
	applied  uint64 // and of the newest that was applied
	queue    []items
	size     int
	busy     bool // a batch is being applied

	owe    bool // the source is to be told our root
	resume bool
	asked  *ask // a question to answer

	synced bool
}

// Batch is what is to be applied of a set: its changes, in order, then Session.Applied.
type Batch struct {
	Set     SetID
	Changes []Change

	upto uint64
	root *Digest
}

func (r *replica) receive(m items, size int) {
	if r.size+size > maxQueued {
		r.owe, r.synced = true, false
		return
	}
	if len(m.changes)+len(m.drops) == 0 && len(r.queue) == 0 && !r.busy {
		r.confirmed(m)
		return
	}
	if m.id > r.received {
		r.received = m.id
	}
	r.queue = append(r.queue, m)
	r.size += size
}

// confirmed takes a message without changes: what the source has now.
func (r *replica) confirmed(m items) {
	if !m.last {
		return
	}
	if r.index.Root() == m.root {
		r.synced = true
		return
	}
	r.owe = true
}

// next joins what waits into a batch.
func (r *replica) next() (Batch, bool) {
	if r.busy || len(r.queue) == 0 {
		return Batch{}, false
	}
	b := Batch{Set: r.id}
	at := map[string]int{}
	put := func(c Change) {
		if i, ok := at[c.Key]; ok {
			b.Changes[i] = c
			return
		}
		at[c.Key] = len(b.Changes)
		b.Changes = append(b.Changes, c)
	}
	size := 0
	for len(r.queue) > 0 {
		m := r.queue[0]
		n := sizeOf(m)
		if size > 0 && size+n > maxBatch {
			break
		}
		size += n
		r.queue[0] = items{}
		r.queue = r.queue[1:]
		r.size -= n
		for _, key := range r.index.resolve(m.salt, m.drops) {
			if _, newer := at[key]; !newer {
				put(Change{Key: key})
			}
		}
		for _, c := range m.changes {
			put(c)
		}
		b.upto = max(b.upto, m.id)
		if b.root = nil; m.last {
			b.root = &m.root
		}
	}
	if len(r.queue) == 0 {
		r.queue = nil
	}
	r.busy = true
	return b, true
}

func sizeOf(m items) int {
	n := 64 + 5*len(m.drops)
	for _, c := range m.changes {
		n += len(c.Key) + len(c.Value)
	}
	return n
}

// done notes that a batch was applied, durably.
func (r *replica) done(b Batch) {
	for _, c := range b.Changes {
		if c.Value == nil {
			r.index.Delete(c.Key)
		} else {
			r.index.PutVersion(c.Key, VersionOf(c.Value))
		}
	}
	r.busy = false
	r.applied = max(r.applied, b.upto)
	r.synced = b.root != nil && r.index.Root() == *b.root
	r.owe = true
}

func (r *replica) have() have {
	h := have{set: r.id, upto: r.applied, root: r.index.Root()}
	if r.resume {
		h.flags |= haveResume
	}
	if r.busy || len(r.queue) > 0 {
		h.flags |= haveBusy
	}
	if !r.synced {
		h.flags |= haveUnsure
	}
	return h
}

func (r *replica) answer(q *ask) tell {
	t := tell{set: r.id, kind: q.kind, salt: q.salt}
	switch q.kind {
	case askTops:
		t.body = r.index.shortTops(q.salt)
	case askLeaves:
		t.body = r.index.shortLeaves(q.salt, q.tops)
	case askItems:
		var e encoder
		r.index.shortItems(&e, q.salt, &q.marked)
		t.body = e.b
	}
	return t
}
