package link

import (
	"crypto/sha256"
	"encoding/binary"
	"sort"
)

// A set is divided into leaves by the hash of the key; the leaves hang in a tree of two levels
// with sixteen children each. A digest is the hash of what lies below it, in order: unlike a sum
// or an exclusive or, no choice of items leads back to a digest that was there before.
const (
	fanout = 16
	leaves = fanout * fanout
	// keepSums is the size from which a set remembers the digests of its leaves.
	keepSums = 64
)

func leafOf(hash uint64) int { return int(hash >> 56) }

// leafItems returns the items of a leaf, ordered by hash and key.
func (s *Set) leafItems(leaf int) []*item {
	low := sort.Search(len(s.items), func(i int) bool { return leafOf(s.items[i].hash) >= leaf })
	high := sort.Search(len(s.items), func(i int) bool { return leafOf(s.items[i].hash) > leaf })
	return s.items[low:high]
}

func digestOfItems(items []*item) (d Digest) {
	if len(items) == 0 {
		return d
	}
	h := sha256.New()
	var n [8]byte
	for _, it := range items {
		binary.BigEndian.PutUint64(n[:], uint64(len(it.key)))
		h.Write(n[:])
		h.Write([]byte(it.key))
		h.Write(it.version[:])
	}
	var sum [sha256.Size]byte
	copy(d[:], h.Sum(sum[:0]))
	return d
}

func digestOfDigests(children []Digest) (d Digest) {
	empty := true
	var buf [fanout * DigestSize]byte
	for i, c := range children {
		empty = empty && c == Digest{}
		copy(buf[i*DigestSize:], c[:])
	}
	if empty {
		return d
	}
	sum := sha256.Sum256(buf[:len(children)*DigestSize])
	copy(d[:], sum[:])
	return d
}

// leafDigests returns the digests of all leaves.
func (s *Set) leafDigests() *[leaves]Digest {
	if s.sums == nil && len(s.items) < keepSums {
		var sums [leaves]Digest
		for low := 0; low < len(s.items); {
			leaf := leafOf(s.items[low].hash)
			high := low + 1
			for high < len(s.items) && leafOf(s.items[high].hash) == leaf {
				high++
			}
			sums[leaf] = digestOfItems(s.items[low:high])
			low = high
		}
		return &sums
	}
	all := s.sums == nil
	if all {
		s.sums = new([leaves]Digest)
	}
	for leaf := range leaves {
		if all || s.stale[leaf] {
			s.sums[leaf] = digestOfItems(s.leafItems(leaf))
			s.stale[leaf] = false
		}
	}
	return s.sums
}

func topDigests(sums *[leaves]Digest) (top [fanout]Digest) {
	for i := range top {
		top[i] = digestOfDigests(sums[i*fanout : (i+1)*fanout])
	}
	return top
}

func (s *Set) rootLocked() Digest {
	if !s.valid {
		top := topDigests(s.leafDigests())
		s.root = digestOfDigests(top[:])
		s.valid = true
	}
	return s.root
}

// On the wire digests and versions are shortened. The salt, new for every question, makes two
// different contents that happen to look alike once look different the next time.
type salt [4]byte

const (
	shortTop  = 6
	shortLeaf = 4
)

func (x salt) digest(d Digest, n int) []byte {
	var buf [4 + DigestSize]byte
	copy(buf[:], x[:])
	copy(buf[4:], d[:])
	sum := sha256.Sum256(buf[:])
	return sum[:n]
}

func (x salt) item(it *item) uint32 {
	buf := make([]byte, 0, 4+DigestSize+128)
	buf = append(buf, x[:]...)
	buf = append(buf, it.version[:]...)
	buf = append(buf, it.key...)
	sum := sha256.Sum256(buf)
	return binary.BigEndian.Uint32(sum[:])
}

// shortTops returns the salted digests of the children of the root.
func (s *Set) shortTops(x salt) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	top := topDigests(s.leafDigests())
	out := make([]byte, 0, fanout*shortTop)
	for _, d := range top {
		out = append(out, x.digest(d, shortTop)...)
	}
	return out
}

// shortLeaves returns the salted digests of the leaves below the children of the root that are
// marked in tops, in order.
func (s *Set) shortLeaves(x salt, tops uint16) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	sums := s.leafDigests()
	var out []byte
	for leaf, d := range sums {
		if tops&(1<<(leaf/fanout)) != 0 {
			out = append(out, x.digest(d, shortLeaf)...)
		}
	}
	return out
}

// leafSet marks leaves.
type leafSet [leaves / 8]byte

func (l *leafSet) add(leaf int)      { l[leaf/8] |= 1 << (leaf % 8) }
func (l *leafSet) has(leaf int) bool { return l[leaf/8]&(1<<(leaf%8)) != 0 }

func allLeaves() (l leafSet) {
	for i := range l {
		l[i] = 0xff
	}
	return l
}

// shortItems appends, for every marked leaf, how many items it has and their salted hashes.
func (s *Set) shortItems(e *encoder, x salt, marked *leafSet) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for leaf := range leaves {
		if !marked.has(leaf) {
			continue
		}
		items := s.leafItems(leaf)
		e.uvarint(uint64(len(items)))
		for _, it := range items {
			e.uint32(x.item(it))
		}
	}
}

// drop names an item by its leaf and its salted hash: one that the source does not have.
type drop struct {
	leaf byte
	hash uint32
}

// resolve finds the keys of drops.
func (s *Set) resolve(x salt, drops []drop) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var keys []string
	for _, d := range drops {
		for _, it := range s.leafItems(int(d.leaf)) {
			if x.item(it) == d.hash {
				keys = append(keys, it.key)
				break
			}
		}
	}
	return keys
}

// compareItems returns what a replica whose marked leaves hold the listed hashes lacks, oldest
// change first, and what it has in excess. An item that changed is both: its key is sent, and the
// replica overwrites it, so its old hash is in the excess too and finds nothing to drop.
func (s *Set) compareItems(x salt, marked *leafSet, listed [][]uint32) (missing []*item, excess []drop) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	at := 0
	for leaf := range leaves {
		if !marked.has(leaf) {
			continue
		}
		theirs := make(map[uint32]bool, len(listed[at]))
		for _, h := range listed[at] {
			theirs[h] = true
		}
		at++
		for _, it := range s.leafItems(leaf) {
			h := x.item(it)
			if !theirs[h] {
				missing = append(missing, it)
			}
			delete(theirs, h)
		}
		for h := range theirs {
			excess = append(excess, drop{byte(leaf), h})
		}
	}
	sort.Slice(missing, func(i, j int) bool { return missing[i].seq < missing[j].seq })
	sort.Slice(excess, func(i, j int) bool {
		a, b := excess[i], excess[j]
		return a.leaf < b.leaf || a.leaf == b.leaf && a.hash < b.hash
	})
	return missing, excess
}
