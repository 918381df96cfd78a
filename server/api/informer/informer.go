package informer

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/tools/cache"

	"bramble.dev/server/store"
)

var versioner = storage.APIObjectVersioner{}

// informer is the SharedIndexInformer of one kind.
type informer struct {
	f       *Factory
	gvk     schema.GroupVersionKind
	gvr     schema.GroupVersionResource
	prefix  string
	decoder runtime.Decoder
	live    *liveIndexer
	kept    *kept // nil: every read goes to the store
}

func (i *informer) object() runtime.Object { return i.new(i.gvk) }

func (i *informer) list() runtime.Object {
	return i.new(i.gvk.GroupVersion().WithKind(i.gvk.Kind + "List"))
}

func (i *informer) new(gvk schema.GroupVersionKind) runtime.Object {
	o, err := i.f.scheme.New(gvk)
	if err != nil {
		panic(err) // the kind was found in this scheme when the informer was made
	}
	return o
}

func (i *informer) decode(value []byte, revision int64) (runtime.Object, error) {
	o, _, err := i.decoder.Decode(value, nil, i.object())
	if err != nil {
		return nil, err
	}
	return o, versioner.UpdateObject(o, uint64(revision))
}

// stub stands for an object that is gone and whose last state nobody kept.
func (i *informer) stub(key string) runtime.Object {
	o := i.object()
	if m, err := meta.Accessor(o); err == nil {
		name := strings.TrimPrefix(key, i.prefix+"/")
		if ns, n, ok := strings.Cut(name, "/"); ok {
			m.SetNamespace(ns)
			name = n
		}
		m.SetName(name)
	}
	return o
}

func (i *informer) GetIndexer() cache.Indexer {
	if i.kept != nil {
		return i.kept.indexer
	}
	return i.live
}

func (i *informer) GetStore() cache.Store { return i.GetIndexer() }

func (i *informer) HasSynced() bool { return i.kept == nil || i.kept.registration.HasSynced() }

func (i *informer) HasSyncedChecker() cache.DoneChecker {
	if i.kept == nil {
		return closedChecker{}
	}
	return i.kept.registration.HasSyncedChecker()
}

func (i *informer) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	return i.listen(h), nil
}

func (i *informer) AddEventHandlerWithResyncPeriod(h cache.ResourceEventHandler, _ time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return i.listen(h), nil
}

func (i *informer) AddEventHandlerWithOptions(h cache.ResourceEventHandler, _ cache.HandlerOptions) (cache.ResourceEventHandlerRegistration, error) {
	return i.listen(h), nil
}

func (i *informer) listen(h cache.ResourceEventHandler) cache.ResourceEventHandlerRegistration {
	if i.kept != nil {
		return i.kept.listen(h)
	}
	return i.follow(h)
}

func (i *informer) RemoveEventHandler(h cache.ResourceEventHandlerRegistration) error {
	switch r := h.(type) {
	case *registration:
		r.cancel()
	case *listener:
		r.remove()
	default:
		return errors.New("not a registration of this informer")
	}
	return nil
}

func (i *informer) AddIndexers(x cache.Indexers) error { return i.GetIndexer().AddIndexers(x) }

func (i *informer) GetController() cache.Controller                    { return nil }
func (i *informer) Run(stop <-chan struct{})                           { <-stop }
func (i *informer) RunWithContext(ctx context.Context)                 { <-ctx.Done() }
func (i *informer) LastSyncResourceVersion() string                    { return "" }
func (i *informer) SetWatchErrorHandler(cache.WatchErrorHandler) error { return nil }
func (i *informer) SetWatchErrorHandlerWithContext(cache.WatchErrorHandlerWithContext) error {
	return nil
}
func (i *informer) SetTransform(cache.TransformFunc) error { return nil }
func (i *informer) IsStopped() bool                        { return i.f.ctx.Err() != nil }

// registration is one handler, the goroutine that feeds it, and whether it has seen what was there at the beginning.
type registration struct {
	cancel context.CancelFunc
	once   sync.Once
	synced chan struct{}
}

func (r *registration) HasSynced() bool {
	select {
	case <-r.synced:
		return true
	default:
		return false
	}
}

func (r *registration) HasSyncedChecker() cache.DoneChecker { return r }
func (r *registration) Name() string                        { return "bramble informer" }
func (r *registration) Done() <-chan struct{}               { return r.synced }

type closedChecker struct{}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (closedChecker) Name() string          { return "bramble informer" }
func (closedChecker) Done() <-chan struct{} { return closed }

// follow feeds a handler until the factory's context is done. A handler that falls behind what the store remembers sees the
// difference between what it has been told and what is there: revisions by key are all that is remembered for that.
func (i *informer) follow(h cache.ResourceEventHandler) *registration {
	ctx, cancel := context.WithCancel(i.f.ctx)
	r := &registration{cancel: cancel, synced: make(chan struct{})}
	i.f.wait.Add(1)
	go func() {
		defer i.f.wait.Done()
		defer cancel()
		if i.f.held != nil {
			select {
			case <-i.f.held:
			case <-ctx.Done():
			}
		}
		told := map[string]int64{}
		for ctx.Err() == nil {
			err := i.followOnce(ctx, h, r, told)
			if errors.Is(err, store.ErrClosed) {
				return // the server is about to end, and there is nothing left to follow
			}
			if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrTooOld) {
				i.f.log.Error("following the store failed", "resource", i.gvr.Resource, "err", err)
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
			}
		}
	}()
	return r
}

func (i *informer) followOnce(ctx context.Context, h cache.ResourceEventHandler, r *registration, told map[string]int64) error {
	f, err := i.f.db.Follow(i.prefix)
	if err != nil {
		return err
	}
	defer f.Close()
	present := map[string]bool{}
	initial := !r.HasSynced()
	for _, kv := range f.Snapshot() {
		present[kv.Key] = true
		i.tell(h, told, initial, store.Event{Key: kv.Key, Revision: kv.Revision, Value: kv.Value})
	}
	for key := range told {
		if !present[key] {
			delete(told, key)
			h.OnDelete(i.stub(key))
		}
	}
	note := func() {
		if k, ok := h.(*kept); ok {
			k.upTo(f.Revision())
		}
	}
	note()
	r.once.Do(func() { close(r.synced) })
	for {
		events, err := f.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			i.tell(h, told, false, e)
		}
		note()
	}
}

// tell hands one change to a handler. An object that cannot be decoded is named in the log and left out.
func (i *informer) tell(h cache.ResourceEventHandler, told map[string]int64, initial bool, e store.Event) {
	known, seen := told[e.Key]
	if seen && known >= e.Revision {
		return
	}
	var before runtime.Object
	if seen {
		before = i.stub(e.Key)
		if e.Previous != nil {
			if o, err := i.decode(e.Previous, known); err == nil {
				before = o
			}
		}
	}
	if e.Value == nil {
		delete(told, e.Key)
		if seen {
			h.OnDelete(before)
		}
		return
	}
	now, err := i.decode(e.Value, e.Revision)
	if err != nil {
		i.f.log.Error("object in the store cannot be read", "key", e.Key, "err", err)
		return
	}
	told[e.Key] = e.Revision
	if seen {
		h.OnUpdate(before, now)
	} else {
		h.OnAdd(now, initial)
	}
}
