package informer

import (
	"context"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"
)

// kept holds the objects of a small kind decoded. Its registration is a handler like any other; the handlers of others are told by
// it, after the objects that readers find have been changed, so that who is told of a change can read it. They must not block.
type kept struct {
	i            *informer
	indexer      cache.Indexer
	registration *registration

	mu        sync.Mutex
	listeners []*listener
	revision  int64         // up to which everything has been told
	progress  chan struct{} // closed when revision changes
}

func newKept(i *informer) *kept {
	k := &kept{
		i: i, indexer: cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}),
		progress: make(chan struct{}),
	}
	k.registration = i.follow(k)
	return k
}

func (k *kept) OnAdd(o any, initial bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.put(o)
	for _, l := range k.listeners {
		l.OnAdd(o, initial)
	}
}

func (k *kept) OnUpdate(before, o any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	slim(before) // who compares both finds only what changed
	k.put(o)
	for _, l := range k.listeners {
		l.OnUpdate(before, o)
	}
}

func (k *kept) OnDelete(o any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.indexer.Delete(o)
	for _, l := range k.listeners {
		l.OnDelete(o)
	}
}

func (k *kept) put(o any) {
	slim(o)
	k.indexer.Add(o)
}

// slim takes from an object what nobody reads and what is much.
func slim(o any) {
	if m, err := meta.Accessor(o); err == nil {
		m.SetManagedFields(nil)
	}
}

// upTo takes in that everything up to a revision has been told.
func (k *kept) upTo(revision int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.revision = revision
	close(k.progress)
	k.progress = make(chan struct{})
}

// current waits until what the store holds now has been told.
func (k *kept) current(ctx context.Context) error {
	_, want := k.i.f.db.Stand(k.i.prefix)
	for {
		k.mu.Lock()
		have, progress := k.revision, k.progress
		k.mu.Unlock()
		if have >= want {
			return nil
		}
		select {
		case <-progress:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-k.i.f.ctx.Done():
			return context.Cause(k.i.f.ctx)
		}
	}
}

// listen adds a handler; it is told what is there before listen returns.
func (k *kept) listen(h cache.ResourceEventHandler) *listener {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := &listener{ResourceEventHandler: h, kept: k}
	for _, o := range k.indexer.List() {
		l.OnAdd(o, true)
	}
	k.listeners = append(k.listeners, l)
	return l
}

// listener is a handler that a kept kind tells. It is in step with the objects that readers find.
type listener struct {
	cache.ResourceEventHandler
	kept *kept
}

func (l *listener) HasSynced() bool                     { return l.kept.registration.HasSynced() }
func (l *listener) HasSyncedChecker() cache.DoneChecker { return l.kept.registration }

func (l *listener) remove() {
	l.kept.mu.Lock()
	defer l.kept.mu.Unlock()
	l.kept.listeners = slices.DeleteFunc(l.kept.listeners, func(other *listener) bool { return other == l })
}
