package link

import (
	"slices"
	"time"
)

// Bounds of what a source sends at a time.
const (
	maxGroup = 64 << 10 // bytes of changes in a message, before compression, unless one is larger
	maxDrops = 2048
	maxTries = 6 // of backing off: 2 s, doubled up to about a minute
	marksMax = 8
	// directLimit is the number of items up to which the tree is not worth its round trips.
	directLimit = 48
)

// source brings the peer's replica of a set up to date. It remembers of the peer only how far in
// the set's changes it is, or that it does not know; then it compares digests. Content is read
// from the set when it is sent.
type source struct {
	id  SetID
	set *Set

	known   bool // what the peer lacks is: pending, drops, and the changes after seq
	seq     uint64
	pending []string
	queued  map[string]bool
	drops   []drop
	salt    salt

	sent    uint64 // id of the newest items message
	applied uint64 // id of the newest one that the peer has applied
	marks   []mark
	confirm bool // the peer is to be told the root

	question ask // kind 0 with open set: what is the root
	open     bool
	walkSeq  uint64
	unasked  bool // the question is not sent yet
	deadline time.Time
	tries    int

	synced  bool
	told    uint64 // items up to this change were reported as acknowledged
	flushed bool   // told is valid
}

// mark is a state of the set that the peer has once it applied a message.
type mark struct {
	id   uint64
	root Digest
	seq  uint64
}

func newSource(id SetID, set *Set) *source { return &source{id: id, set: set} }

// ask asks the next question of a comparison.
func (r *source) ask(q ask, fresh salt) {
	q.set, q.salt = r.id, fresh
	r.question, r.open, r.unasked = q, true, true
}

// restart asks for the root, where everything begins again.
func (r *source) restart(fresh salt) { r.ask(ask{kind: askRoot}, fresh) }

// expect starts the timer for an answer.
func (r *source) expect(now time.Time, timeout time.Duration) {
	r.deadline = now.Add(timeout << min(r.tries, maxTries))
}

// progress is called when the peer answered.
func (r *source) progress() {
	r.tries = 0
	r.deadline = time.Time{}
}

// tick asks again when an answer is overdue.
func (r *source) tick(now time.Time, fresh salt) {
	if r.deadline.IsZero() || now.Before(r.deadline) {
		return
	}
	r.tries++
	r.deadline = time.Time{}
	r.restart(fresh)
}

// idle reports that nothing is wanted of the peer.
func (r *source) idle() bool { return r.known && !r.open && r.sent == r.applied }

// has reports whether there is something to send, without building it.
func (r *source) has() bool {
	if !r.known || r.open {
		return false
	}
	if r.confirm || len(r.pending) > 0 || len(r.drops) > 0 {
		return true
	}
	r.set.mu.RLock()
	defer r.set.mu.RUnlock()
	return r.set.seq != r.seq
}

// have takes the peer's root and decides what that means.
func (r *source) have(h have, fresh salt) {
	if h.upto <= r.sent && h.upto > r.applied {
		r.applied = h.upto
	}
	resume := h.flags&haveResume != 0
	if resume {
		r.applied = r.sent // what is not applied is lost
	}
	r.progress()
	if h.flags&haveBusy != 0 && !resume {
		return // another will follow
	}
	if r.open && r.question.kind == askRoot {
		// The question was sent after all items: those that are not applied are lost.
		r.open, r.unasked = false, false
		r.applied = r.sent
	} else if r.open && !resume {
		return // a comparison is under way
	}
	if r.applied != r.sent && !resume {
		// Messages are on their way. If the last of them came before this root, the next one tells.
		return
	}
	r.open = false
	root, seq := r.set.rootAndSeq()
	switch m, ok := r.mark(h.root); {
	case h.root == root:
		r.reached(seq)
		r.confirm = h.flags&haveUnsure != 0
	case ok:
		r.reached(m.seq)
	case h.root == Digest{}:
		r.all()
	case r.known && !resume && (len(r.pending) > 0 || len(r.drops) > 0):
		// In the middle of what it is being sent.
	default:
		r.compare(fresh)
	}
}

func (r *source) mark(root Digest) (mark, bool) {
	for i := len(r.marks) - 1; i >= 0; i-- {
		if r.marks[i].root == root {
			return r.marks[i], true
		}
	}
	return mark{}, false
}

// reached notes that the peer has the set as it was after change number seq.
func (r *source) reached(seq uint64) {
	r.known, r.seq = true, seq
	r.pending, r.queued, r.drops = nil, nil, nil
	r.synced = true
}

// all queues every item, for a peer that has none.
func (r *source) all() {
	r.known, r.drops, r.pending, r.queued = true, nil, nil, map[string]bool{}
	_, seq := r.set.rootAndSeq()
	r.seq = seq
	for _, it := range r.set.after(0) {
		r.queue(it.key)
	}
}

func (r *source) queue(key string) {
	if r.queued == nil {
		r.queued = map[string]bool{}
	}
	if !r.queued[key] {
		r.queued[key] = true
		r.pending = append(r.pending, key)
	}
}

// compare begins the walk down the tree.
func (r *source) compare(fresh salt) {
	r.known = false
	_, r.walkSeq = r.set.rootAndSeq()
	if r.set.Len() <= directLimit {
		r.ask(ask{kind: askItems, marked: allLeaves()}, fresh)
		return
	}
	r.ask(ask{kind: askTops}, fresh)
}

// tell takes an answer of the peer and asks on, or knows.
func (r *source) tell(t tell, fresh salt) error {
	if !r.open || t.kind != r.question.kind || t.salt != r.question.salt {
		return nil // an answer to a question that was given up
	}
	r.progress()
	r.open = false
	switch t.kind {
	case askTops:
		return r.toldTops(t, fresh)
	case askLeaves:
		return r.toldLeaves(t, fresh)
	case askItems:
		return r.toldItems(t, fresh)
	}
	return errMalformed
}

func (r *source) toldTops(t tell, fresh salt) error {
	ours := r.set.shortTops(t.salt)
	if len(t.body) != len(ours) {
		return errMalformed
	}
	var tops uint16
	for i := range fanout {
		if !slices.Equal(ours[i*shortTop:(i+1)*shortTop], t.body[i*shortTop:(i+1)*shortTop]) {
			tops |= 1 << i
		}
	}
	r.ask(ask{kind: askLeaves, tops: tops}, fresh)
	return nil
}

func (r *source) toldLeaves(t tell, fresh salt) error {
	ours := r.set.shortLeaves(t.salt, r.question.tops)
	if len(t.body) != len(ours) {
		return errMalformed
	}
	var marked leafSet
	at := 0
	for leaf := range leaves {
		if r.question.tops&(1<<(leaf/fanout)) == 0 {
			continue
		}
		if !slices.Equal(ours[at:at+shortLeaf], t.body[at:at+shortLeaf]) {
			marked.add(leaf)
		}
		at += shortLeaf
	}
	r.ask(ask{kind: askItems, marked: marked}, fresh)
	return nil
}

func (r *source) toldItems(t tell, fresh salt) error {
	lists, err := listed(t.body, &r.question.marked)
	if err != nil {
		return err
	}
	missing, excess := r.set.compareItems(t.salt, &r.question.marked, lists)
	r.known, r.seq = true, r.walkSeq // what changed since then is sent as well
	r.pending, r.queued = nil, nil
	for _, it := range missing {
		r.queue(it.key)
	}
	r.drops, r.salt = excess, t.salt
	if _, now := r.set.rootAndSeq(); len(missing) == 0 && len(excess) == 0 && now == r.seq {
		r.restart(fresh) // what differed was on its way
	}
	return nil
}

// build makes the next items message; nil if there is none. The caller has checked has.
func (r *source) build(fresh salt, compress func([]byte) []byte) []byte {
	s := r.set
	s.mu.Lock()
	keys, now, ok := s.sinceLocked(r.seq)
	if !ok {
		s.mu.Unlock()
		r.confirm = false
		r.compare(fresh)
		return nil
	}
	for _, key := range keys {
		r.queue(key)
	}
	r.seq = now
	m := items{set: r.id, salt: r.salt}
	n := min(len(r.drops), maxDrops)
	m.drops, r.drops = r.drops[:n], r.drops[n:]
	size := 0
	for size < maxGroup && len(r.pending) > 0 {
		key := r.pending[0]
		c := Change{Key: key}
		if i, ok := s.find(key, keyHash(key)); ok {
			c.Value = s.items[i].value
		}
		if size > 0 && size+len(c.Value) > maxGroup {
			break
		}
		r.pending = r.pending[1:]
		delete(r.queued, key)
		m.changes = append(m.changes, c)
		size += len(c.Key) + len(c.Value)
	}
	m.last = len(r.pending) == 0 && len(r.drops) == 0
	if m.last {
		m.root = s.rootLocked()
		r.pending, r.queued, r.drops = nil, nil, nil
	}
	s.mu.Unlock()
	r.confirm = false
	if len(m.changes)+len(m.drops) > 0 {
		r.sent++
	}
	m.id = r.sent
	if m.last {
		r.marks = append(r.marks, mark{m.id, m.root, now})
		if len(r.marks) > marksMax {
			r.marks = slices.Delete(r.marks, 0, 1)
		}
	}
	return m.encode(compress)
}

// acknowledged returns the items that the peer has and that were not reported before.
func (r *source) acknowledged() []*item {
	if !r.synced {
		return nil
	}
	r.synced = false
	if r.flushed && r.told >= r.seq {
		return nil
	}
	from := r.told
	if !r.flushed {
		from = 0
	}
	r.told, r.flushed = r.seq, true
	found := r.set.after(from)
	for i, it := range found {
		if it.seq > r.seq {
			return found[:i]
		}
	}
	return found
}
