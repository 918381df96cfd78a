package cache

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// retryAfter is how long a cache waits before it follows again after an error.
const retryAfter = time.Second

// Change is what happened to one object: Old is nil for a new one, New for one
// that is gone. When an object was deleted and made again under its name while
// the source had lost its place, that is two changes.
type Change[T any] struct{ Old, New *T }

// Object is the newest version of the object that the change knows.
func (c Change[T]) Object() *T {
	if c.New != nil {
		return c.New
	}
	return c.Old
}

// Key is the object's namespace and name.
func (c Change[T]) Key() types.NamespacedName {
	m := meta(c.Object())
	return types.NamespacedName{Namespace: m.GetNamespace(), Name: m.GetName()}
}

// Cache holds the objects of one resource.
type Cache[T any] struct {
	source Source
	prefix string
	keep   func(key string) bool // nil keeps all
	log    *slog.Logger

	// deliver orders changes and registrations of handlers; mu guards the
	// content, so that a handler may read the cache.
	deliver  sync.Mutex
	handlers map[int]func(Change[T])
	nextID   int

	mu       sync.RWMutex
	objects  map[string]map[string]*T // namespace, name
	indexes  map[string]*index[T]
	revision int64         // of the newest change that was applied
	syncs    int           // how many snapshots were applied
	advanced chan struct{} // closed when revision or syncs grows; nil if nobody waits
}

// New makes a cache of the objects under prefix. It is empty until Run.
func New[T any](source Source, prefix string, log *slog.Logger) *Cache[T] {
	return &Cache[T]{
		source:   source,
		prefix:   prefix,
		log:      log.With("prefix", prefix),
		handlers: map[int]func(Change[T]){},
		objects:  map[string]map[string]*T{},
		indexes:  map[string]*index[T]{},
	}
}

// Run follows the source until ctx is done.
func (c *Cache[T]) Run(ctx context.Context) {
	f, err := c.start()
	c.run(ctx, f, err)
}

func (c *Cache[T]) run(ctx context.Context, f Follower, err error) {
	run(ctx, c.log, c.start, c.follow, f, err)
}

// run goes on from where start left off, and starts over when the source lost
// its place or failed.
func run(ctx context.Context, log *slog.Logger, start func() (Follower, error), follow func(context.Context, Follower) error, f Follower, err error) {
	for {
		if err == nil {
			err = follow(ctx, f)
			f.Close()
		}
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, ErrTooOld) {
			log.Error("cache lost its source", "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryAfter):
			}
		}
		f, err = start()
	}
}

// start follows the source and applies its snapshot.
func (c *Cache[T]) start() (Follower, error) {
	f, err := c.source.Follow(c.prefix)
	if err != nil {
		return nil, err
	}
	c.replace(f.Snapshot())
	return f, nil
}

func (c *Cache[T]) follow(ctx context.Context, f Follower) error {
	for {
		events, err := f.Next(ctx)
		if err != nil {
			return err
		}
		c.apply(events)
	}
}

// replace makes the content equal to a snapshot and tells handlers the difference.
func (c *Cache[T]) replace(snapshot []KeyValue) {
	c.deliver.Lock()
	defer c.deliver.Unlock()
	present := make(map[types.NamespacedName]struct{}, len(snapshot))
	var newest int64
	for _, kv := range snapshot {
		newest = max(newest, kv.Revision)
		if c.keep != nil && !c.keep(kv.Key) {
			continue
		}
		object, err := decode[T](kv.Value, kv.Revision)
		if err != nil {
			c.log.Error("an object cannot be read and is ignored", "key", kv.Key, "err", err)
			continue
		}
		m := meta(object)
		present[types.NamespacedName{Namespace: m.GetNamespace(), Name: m.GetName()}] = struct{}{}
		c.put(object)
	}
	for _, old := range c.List("", nil) {
		m := meta(old)
		key := types.NamespacedName{Namespace: m.GetNamespace(), Name: m.GetName()}
		if _, ok := present[key]; !ok {
			c.remove(key.Namespace, key.Name)
		}
	}
	c.mu.Lock()
	c.syncs++
	c.advance(newest)
	c.mu.Unlock()
}

func (c *Cache[T]) apply(events []Event) {
	c.deliver.Lock()
	defer c.deliver.Unlock()
	for _, e := range events {
		c.applyOne(e)
		c.mu.Lock()
		c.advance(e.Revision)
		c.mu.Unlock()
	}
}

func (c *Cache[T]) applyOne(e Event) {
	if c.keep != nil && !c.keep(e.Key) {
		return
	}
	if e.Value == nil {
		c.remove(nameOf(c.prefix, e.Key))
		return
	}
	object, err := decode[T](e.Value, e.Revision)
	if err != nil {
		c.log.Error("a change cannot be read and is ignored", "key", e.Key, "err", err)
		return
	}
	c.put(object)
}

// nameOf reads namespace and name from a key of the store.
func nameOf(prefix, key string) (namespace, name string) {
	rest := strings.Trim(strings.TrimPrefix(key, prefix), "/")
	if namespace, name, ok := strings.Cut(rest, "/"); ok {
		return namespace, name
	}
	return "", rest
}

// put stores an object and tells handlers. The same version twice is no change.
func (c *Cache[T]) put(object *T) {
	m := meta(object)
	old, had := c.Get(m.GetNamespace(), m.GetName())
	if had && meta(old).GetUID() != m.GetUID() {
		c.remove(m.GetNamespace(), m.GetName())
		old, had = nil, false
	}
	if had && meta(old).GetResourceVersion() == m.GetResourceVersion() {
		return
	}
	c.mu.Lock()
	inNamespace := c.objects[m.GetNamespace()]
	if inNamespace == nil {
		inNamespace = map[string]*T{}
		c.objects[m.GetNamespace()] = inNamespace
	}
	inNamespace[m.GetName()] = object
	for _, ix := range c.indexes {
		if had {
			ix.remove(old)
		}
		ix.add(object)
	}
	c.mu.Unlock()
	c.notify(Change[T]{Old: old, New: object})
}

func (c *Cache[T]) remove(namespace, name string) {
	old, had := c.Get(namespace, name)
	if !had {
		return
	}
	c.mu.Lock()
	delete(c.objects[namespace], name)
	if len(c.objects[namespace]) == 0 {
		delete(c.objects, namespace)
	}
	for _, ix := range c.indexes {
		ix.remove(old)
	}
	c.mu.Unlock()
	c.notify(Change[T]{Old: old})
}

func (c *Cache[T]) notify(change Change[T]) {
	for _, h := range c.handlers {
		h(change)
	}
}

// advance records progress and wakes those who wait for it. mu is held.
func (c *Cache[T]) advance(revision int64) {
	c.revision = max(c.revision, revision)
	if c.advanced != nil {
		close(c.advanced)
		c.advanced = nil
	}
}

// OnChange calls handler for every object that is there and for every change
// from then on, until stop is called. A handler runs while the cache waits: it
// puts a key into a queue and returns.
func (c *Cache[T]) OnChange(handler func(Change[T])) (stop func()) {
	c.deliver.Lock()
	defer c.deliver.Unlock()
	for _, object := range c.List("", nil) {
		handler(Change[T]{New: object})
	}
	id := c.nextID
	c.nextID++
	c.handlers[id] = handler
	return func() {
		c.deliver.Lock()
		defer c.deliver.Unlock()
		delete(c.handlers, id)
	}
}

// Get returns an object by its name; namespace is empty for what has none.
func (c *Cache[T]) Get(namespace, name string) (*T, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	object, ok := c.objects[namespace][name]
	return object, ok
}

// List returns the objects of a namespace (all of them if it is empty) whose
// labels match (all if the selector is nil), in no order.
func (c *Cache[T]) List(namespace string, selector labels.Selector) []*T {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var out []*T
	collect := func(objects map[string]*T) {
		for _, object := range objects {
			if selector == nil || selector.Matches(labels.Set(meta(object).GetLabels())) {
				out = append(out, object)
			}
		}
	}
	if namespace != "" {
		collect(c.objects[namespace])
		return out
	}
	for _, objects := range c.objects {
		collect(objects)
	}
	return out
}

// Len is the number of objects.
func (c *Cache[T]) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	n := 0
	for _, objects := range c.objects {
		n += len(objects)
	}
	return n
}

// WaitSynced returns when the first snapshot has been applied.
func (c *Cache[T]) WaitSynced(ctx context.Context) error {
	return c.wait(ctx, func() bool { return c.syncs > 0 })
}

// Seen gives a function that returns when the cache has seen the write that
// gave an object this resource version, so that whoever wrote it can go on
// without acting twice.
func (c *Cache[T]) Seen(resourceVersion string) func(context.Context) error {
	revision, err := strconv.ParseInt(resourceVersion, 10, 64)
	if err != nil {
		return func(context.Context) error { return nil }
	}
	c.mu.RLock()
	since := c.syncs
	c.mu.RUnlock()
	// A snapshot that was taken after the write shows it, or that it was undone.
	return func(ctx context.Context) error {
		return c.wait(ctx, func() bool { return c.revision >= revision || c.syncs > since+1 })
	}
}

// Until gives a function that returns when done is true of the cached object;
// nil stands for one that is not there.
func (c *Cache[T]) Until(namespace, name string, done func(*T) bool) func(context.Context) error {
	return func(ctx context.Context) error {
		return c.wait(ctx, func() bool { return done(c.objects[namespace][name]) })
	}
}

// wait blocks until done, which is called with mu held.
func (c *Cache[T]) wait(ctx context.Context, done func() bool) error {
	for {
		c.mu.Lock()
		if done() {
			c.mu.Unlock()
			return nil
		}
		if c.advanced == nil {
			c.advanced = make(chan struct{})
		}
		advanced := c.advanced
		c.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-advanced:
		}
	}
}
