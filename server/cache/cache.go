package cache

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
type Cache[T any] struct{ content }

// content is what a cache is made of, without the type of its objects: the code of a generic type is there once for each type
// that it is used with, and thirty copies of this would be half a megabyte.
type content struct {
	source Source
	prefix string
	keep   func(key string) bool // nil keeps all
	log    *slog.Logger
	fresh  func() any // an object to decode into

	// deliver orders changes and registrations of handlers; mu guards the
	// content, so that a handler may read the cache.
	deliver  sync.Mutex
	handlers map[int]func(before, now metav1.Object)
	nextID   int

	mu       sync.RWMutex
	objects  map[string]map[string]metav1.Object // namespace, name
	indexes  map[string]*index
	revision int64         // of the newest change that was applied
	syncs    int           // how many snapshots were applied
	advanced chan struct{} // closed when revision or syncs grows; nil if nobody waits
}

// New makes a cache of the objects under prefix. It is empty until Run.
func New[T any](source Source, prefix string, log *slog.Logger) *Cache[T] {
	return &Cache[T]{content{
		source:   source,
		prefix:   prefix,
		log:      log.With("prefix", prefix),
		fresh:    func() any { return new(T) },
		handlers: map[int]func(before, now metav1.Object){},
		objects:  map[string]map[string]metav1.Object{},
		indexes:  map[string]*index{},
	}}
}

// as gives an object its type; nil stays nil.
func as[T any](object metav1.Object) *T {
	if object == nil {
		return nil
	}
	return any(object).(*T)
}

// OnChange calls handler for every object that is there and for every change
// from then on, until stop is called. A handler runs while the cache waits: it
// puts a key into a queue and returns.
func (c *Cache[T]) OnChange(handler func(Change[T])) (stop func()) {
	return c.onChange(func(before, now metav1.Object) { handler(Change[T]{Old: as[T](before), New: as[T](now)}) })
}

// Get returns an object by its name; namespace is empty for what has none.
func (c *Cache[T]) Get(namespace, name string) (*T, bool) {
	object, ok := c.get(namespace, name)
	return as[T](object), ok
}

// List returns the objects of a namespace (all of them if it is empty) whose
// labels match (all if the selector is nil), in no order.
func (c *Cache[T]) List(namespace string, selector labels.Selector) []*T {
	return typed[T](c.list(namespace, selector))
}

func typed[T any](objects []metav1.Object) []*T {
	if objects == nil {
		return nil
	}
	out := make([]*T, len(objects))
	for i, object := range objects {
		out[i] = as[T](object)
	}
	return out
}

// Until gives a function that returns when done is true of the cached object;
// nil stands for one that is not there.
func (c *Cache[T]) Until(namespace, name string, done func(*T) bool) func(context.Context) error {
	return func(ctx context.Context) error {
		return c.wait(ctx, func() bool { return done(as[T](c.objects[namespace][name])) })
	}
}

// Run follows the source until ctx is done.
func (c *content) Run(ctx context.Context) {
	f, err := c.start()
	c.run(ctx, f, err)
}

func (c *content) run(ctx context.Context, f Follower, err error) {
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
func (c *content) start() (Follower, error) {
	f, err := c.source.Follow(c.prefix)
	if err != nil {
		return nil, err
	}
	c.replace(f.Snapshot(), f.Revision())
	return f, nil
}

func (c *content) follow(ctx context.Context, f Follower) error {
	for {
		events, err := f.Next(ctx)
		if err != nil {
			return err
		}
		c.apply(events)
	}
}

// replace makes the content equal to a snapshot of a revision and tells handlers the difference. That revision counts, and not
// the newest of the objects: whoever waits for a write of what was deleted since would wait for the next change of another.
func (c *content) replace(snapshot []KeyValue, revision int64) {
	c.deliver.Lock()
	defer c.deliver.Unlock()
	present := make(map[types.NamespacedName]struct{}, len(snapshot))
	for _, kv := range snapshot {
		if c.keep != nil && !c.keep(kv.Key) {
			continue
		}
		object, err := decode(c.fresh(), kv.Value, kv.Revision)
		if err != nil {
			c.log.Error("an object cannot be read and is ignored", "key", kv.Key, "err", err)
			continue
		}
		present[types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()}] = struct{}{}
		c.put(object)
	}
	for _, old := range c.list("", nil) {
		key := types.NamespacedName{Namespace: old.GetNamespace(), Name: old.GetName()}
		if _, ok := present[key]; !ok {
			c.remove(key.Namespace, key.Name)
		}
	}
	c.mu.Lock()
	c.syncs++
	c.advance(revision)
	c.mu.Unlock()
}

func (c *content) apply(events []Event) {
	c.deliver.Lock()
	defer c.deliver.Unlock()
	for _, e := range events {
		c.applyOne(e)
		c.mu.Lock()
		c.advance(e.Revision)
		c.mu.Unlock()
	}
}

func (c *content) applyOne(e Event) {
	if c.keep != nil && !c.keep(e.Key) {
		return
	}
	if e.Value == nil {
		c.remove(nameOf(c.prefix, e.Key))
		return
	}
	object, err := decode(c.fresh(), e.Value, e.Revision)
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
func (c *content) put(object metav1.Object) {
	namespace, name := object.GetNamespace(), object.GetName()
	old, had := c.get(namespace, name)
	if had && old.GetUID() != object.GetUID() {
		c.remove(namespace, name)
		old, had = nil, false
	}
	if had && old.GetResourceVersion() == object.GetResourceVersion() {
		return
	}
	c.mu.Lock()
	inNamespace := c.objects[namespace]
	if inNamespace == nil {
		inNamespace = map[string]metav1.Object{}
		c.objects[namespace] = inNamespace
	}
	inNamespace[name] = object
	for _, ix := range c.indexes {
		if had {
			ix.remove(old)
		}
		ix.add(object)
	}
	c.mu.Unlock()
	c.notify(old, object)
}

func (c *content) remove(namespace, name string) {
	old, had := c.get(namespace, name)
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
	c.notify(old, nil)
}

func (c *content) notify(before, now metav1.Object) {
	for _, h := range c.handlers {
		h(before, now)
	}
}

// advance records progress and wakes those who wait for it. mu is held.
func (c *content) advance(revision int64) {
	c.revision = max(c.revision, revision)
	if c.advanced != nil {
		close(c.advanced)
		c.advanced = nil
	}
}

func (c *content) onChange(handler func(before, now metav1.Object)) (stop func()) {
	c.deliver.Lock()
	defer c.deliver.Unlock()
	for _, object := range c.list("", nil) {
		handler(nil, object)
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

func (c *content) get(namespace, name string) (metav1.Object, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	object, ok := c.objects[namespace][name]
	return object, ok
}

func (c *content) list(namespace string, selector labels.Selector) []metav1.Object {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var out []metav1.Object
	collect := func(objects map[string]metav1.Object) {
		for _, object := range objects {
			if selector == nil || selector.Matches(labels.Set(object.GetLabels())) {
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
func (c *content) Len() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	n := 0
	for _, objects := range c.objects {
		n += len(objects)
	}
	return n
}

// WaitSynced returns when the first snapshot has been applied.
func (c *content) WaitSynced(ctx context.Context) error {
	return c.wait(ctx, func() bool { return c.syncs > 0 })
}

// Seen gives a function that returns when the cache has seen the write that
// gave an object this resource version, so that whoever wrote it can go on
// without acting twice.
func (c *content) Seen(resourceVersion string) func(context.Context) error {
	revision, err := strconv.ParseInt(resourceVersion, 10, 64)
	if err != nil {
		return func(context.Context) error { return nil }
	}
	return func(ctx context.Context) error {
		return c.wait(ctx, func() bool { return c.revision >= revision })
	}
}

// wait blocks until done, which is called with mu held.
func (c *content) wait(ctx context.Context, done func() bool) error {
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
