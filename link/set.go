package link

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
	"sync"
)

// DigestSize is the length of versions and digests: SHA-256, truncated. It is long enough that
// nobody who chooses the content of items finds two contents with one version.
const DigestSize = 16

// Digest stands for the content of a set, or of a part of it. The digest of nothing is zero.
type Digest [DigestSize]byte

// Version stands for the value of an item: equal versions mean equal values.
type Version [DigestSize]byte

// VersionOf is the version of a value.
func VersionOf(value []byte) Version {
	sum := sha256.Sum256(value)
	return Version(sum[:DigestSize])
}

// Change is the new state of one item.
type Change struct {
	Key   string
	Value []byte // nil: deleted
}

// logSize bounds how many changes a set remembers. A source whose peer is further behind compares
// digests instead.
const logSize = 1024

// Set is a collection of items: what one side wants the other to have. It is safe for use by
// several goroutines. Values belong to the set once they were put and must not be modified.
type Set struct {
	mu    sync.RWMutex
	items []*item // ordered by hash, then key, so that the items of a leaf lie together
	index bool    // values are not kept

	seq uint64   // number of changes so far
	log []string // keys of the last changes; the change with number n is at (n-1) % logSize

	sums  *[leaves]Digest // digests of the leaves; nil until the set is large enough to keep them
	stale [leaves]bool
	root  Digest
	valid bool // root is that of the present content
}

type item struct {
	key     string
	hash    uint64
	version Version
	value   []byte
	seq     uint64 // the change that made it what it is
}

// NewSet makes an empty set.
func NewSet() *Set { return &Set{} }

// NewIndex makes an empty set that keeps keys and versions, but no values: what a replica must
// remember of the items that it has stored elsewhere.
func NewIndex() *Set { return &Set{index: true} }

// Index copies the keys and versions of s.
func (s *Set) Index() *Set {
	s.mu.RLock()
	defer s.mu.RUnlock()
	x := &Set{index: true, items: make([]*item, len(s.items))}
	for i, it := range s.items {
		x.items[i] = &item{key: it.key, hash: it.hash, version: it.version}
	}
	return x
}

func keyHash(key string) uint64 {
	sum := sha256.Sum256([]byte(key))
	return binary.BigEndian.Uint64(sum[:])
}

func (s *Set) find(key string, hash uint64) (int, bool) {
	return slices.BinarySearchFunc(s.items, key, func(it *item, key string) int {
		if c := cmp.Compare(it.hash, hash); c != 0 {
			return c
		}
		return strings.Compare(it.key, key)
	})
}

// Put sets the value of an item and reports whether that changed the set. A nil value is an empty one.
func (s *Set) Put(key string, value []byte) (changed bool) {
	if s.index {
		return s.put(key, VersionOf(value), nil)
	}
	if value == nil {
		value = []byte{}
	}
	return s.put(key, VersionOf(value), value)
}

// PutVersion records an item of which only the version is known; for an index.
func (s *Set) PutVersion(key string, version Version) (changed bool) {
	return s.put(key, version, nil)
}

func (s *Set) put(key string, version Version, value []byte) bool {
	hash := keyHash(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.find(key, hash)
	if ok && s.items[i].version == version {
		return false
	}
	s.changed(key, hash)
	if ok {
		// A new item, because readers may hold the old one.
		s.items[i] = &item{key: s.items[i].key, hash: hash, version: version, value: value, seq: s.seq}
		return true
	}
	s.items = slices.Insert(s.items, i, &item{key: key, hash: hash, version: version, value: value, seq: s.seq})
	return true
}

// Delete removes an item and reports whether it was there.
func (s *Set) Delete(key string) bool {
	hash := keyHash(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.find(key, hash)
	if !ok {
		return false
	}
	s.items = slices.Delete(s.items, i, i+1)
	s.changed(key, hash)
	return true
}

func (s *Set) changed(key string, hash uint64) {
	s.seq++
	s.valid = false
	s.stale[leafOf(hash)] = true
	if s.index {
		return
	}
	if len(s.log) < logSize {
		s.log = append(s.log, key)
		return
	}
	s.log[(s.seq-1)%logSize] = key
}

// sinceLocked returns the keys that changed after change number seq, oldest first, and the
// number of the newest change. It is false when the set no longer knows.
func (s *Set) sinceLocked(seq uint64) (keys []string, now uint64, ok bool) {
	if seq > s.seq || s.seq-seq > uint64(len(s.log)) {
		return nil, s.seq, false
	}
	for n := seq; n < s.seq; n++ {
		keys = append(keys, s.log[n%logSize])
	}
	return keys, s.seq, true
}

// Get returns the value of an item.
func (s *Set) Get(key string) ([]byte, bool) {
	if it := s.get(key); it != nil {
		return it.value, true
	}
	return nil, false
}

// Version returns the version of an item.
func (s *Set) Version(key string) (Version, bool) {
	if it := s.get(key); it != nil {
		return it.version, true
	}
	return Version{}, false
}

func (s *Set) get(key string) *item {
	hash := keyHash(key)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if i, ok := s.find(key, hash); ok {
		return s.items[i]
	}
	return nil
}

// Keys returns all keys, sorted.
func (s *Set) Keys() []string {
	s.mu.RLock()
	keys := make([]string, len(s.items))
	for i, it := range s.items {
		keys[i] = it.key
	}
	s.mu.RUnlock()
	slices.Sort(keys)
	return keys
}

// Len is the number of items.
func (s *Set) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.items)
}

// Root is the digest of the whole set.
func (s *Set) Root() Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rootLocked()
}

// rootAndSeq returns the digest and the number of the change that led to it.
func (s *Set) rootAndSeq() (Digest, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rootLocked(), s.seq
}

// after returns the items that changed after change number seq and are still there, oldest change first.
func (s *Set) after(seq uint64) []*item {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var found []*item
	for _, it := range s.items {
		if it.seq > seq {
			found = append(found, it)
		}
	}
	slices.SortFunc(found, func(a, b *item) int { return cmp.Compare(a.seq, b.seq) })
	return found
}
