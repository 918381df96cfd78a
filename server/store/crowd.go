package store

import (
	"bytes"
	"io"
	"sync"
	"weak"

	"k8s.io/apimachinery/pkg/runtime"
	runtimeschema "k8s.io/apimachinery/pkg/runtime/schema"
)

// crowd is all who watch a resource by one codec. While there are several, a change is decoded once for all of them, and encoded once
// in each form that their clients asked for. What nobody is being told any more is garbage: the crowd itself keeps weak pointers.
type crowd struct {
	mu       sync.Mutex
	watchers int
	recent   []recentChange // by revision, modulo crowdMemory; nil while fewer than two watch
}

// recentChange is one change as it was decoded last.
type recentChange struct {
	rev         int64
	key         string // an expiry of etcd's deletes several keys at one revision
	now, before weak.Pointer[cachingObject]
}

// crowdMemory is how many changes are found again: as many as a watcher takes of the ring at a time.
const crowdMemory = watchChunk

func (c *crowd) join() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watchers++; c.watchers == 2 {
		c.recent = make([]recentChange, crowdMemory)
	}
}

func (c *crowd) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watchers--; c.watchers < 2 {
		c.recent = nil
	}
}

// object gives the state of an object after or before a change. The first who asks decodes it, the others wait for that. A lone watcher
// has an object of its own.
func (c *crowd) object(rev int64, key string, before bool, decode func() (runtime.Object, error)) (runtime.Object, error) {
	s := c.find(rev, key, before)
	if s == nil {
		return decode()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.object == nil {
		obj, err := decode()
		if err != nil {
			return nil, err // the next tries himself: it may be this one's own time that is over
		}
		s.object = obj
	}
	return s, nil
}

// find finds or makes the object of a change that all are told of; nil while one watches alone.
func (c *crowd) find(rev int64, key string, before bool) *cachingObject {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.recent == nil {
		return nil
	}
	at := &c.recent[rev%crowdMemory]
	if at.rev != rev || at.key != key {
		*at = recentChange{rev: rev, key: key}
	}
	known := &at.now
	if before {
		known = &at.before
	}
	s := known.Value()
	if s == nil {
		s = &cachingObject{}
		*known = weak.Make(s)
	}
	return s
}

// cachingObject (upstream's name for the same in its watch cache) is an object that several are told of. It remembers how it was encoded: upstream's encoders look for that.
type cachingObject struct {
	mu      sync.Mutex
	object  runtime.Object // nil until it is decoded; then nobody changes it
	encoded map[runtime.Identifier][]byte
}

var _ runtime.CacheableObject = (*cachingObject)(nil)

// CacheEncode writes the object in an encoder's form.
func (s *cachingObject) CacheEncode(id runtime.Identifier, encode func(runtime.Object, io.Writer) error, w io.Writer) error {
	data, err := s.as(id, encode)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

func (s *cachingObject) as(id runtime.Identifier, encode func(runtime.Object, io.Writer) error) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if data, known := s.encoded[id]; known {
		return data, nil
	}
	var buf bytes.Buffer
	if err := encode(s.GetObject(), &buf); err != nil {
		return nil, err
	}
	if s.encoded == nil {
		s.encoded = map[runtime.Identifier][]byte{}
	}
	s.encoded[id] = buf.Bytes()
	return buf.Bytes(), nil
}

// GetObject gives a copy, because encoders may change what they are given.
func (s *cachingObject) GetObject() runtime.Object { return s.object.DeepCopyObject() }

func (s *cachingObject) GetObjectKind() runtimeschema.ObjectKind { return s.object.GetObjectKind() }

// DeepCopyObject is called by nobody who watches.
func (s *cachingObject) DeepCopyObject() runtime.Object { return &cachingObject{object: s.GetObject()} }

// plain is the object to look at.
func plain(obj runtime.Object) runtime.Object {
	if s, ok := obj.(*cachingObject); ok {
		return s.object
	}
	return obj
}
