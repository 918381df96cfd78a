package informer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/tools/cache"
)

// errReadOnly refuses what only an informer's own machinery would do.
var errReadOnly = errors.New("this indexer reads the store and cannot be written")

// liveIndexer answers a lister's questions from the store.
type liveIndexer struct {
	i       *informer
	storage storage.Interface

	mu       sync.Mutex
	indexers cache.Indexers // beside the namespace
}

var _ cache.Indexer = &liveIndexer{}

func (l *liveIndexer) GetByKey(key string) (any, bool, error) {
	o := l.i.object()
	err := l.storage.Get(l.i.f.ctx, storagePrefix(l.i.prefix)+"/"+key, storage.GetOptions{}, o)
	if storage.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read %s %s: %w", l.i.gvr.Resource, key, err)
	}
	return o, true, nil
}

func (l *liveIndexer) Get(obj any) (any, bool, error) {
	key, err := cache.MetaNamespaceKeyFunc(obj)
	if err != nil {
		return nil, false, err
	}
	return l.GetByKey(key)
}

func (l *liveIndexer) under(namespace string) ([]any, error) {
	key := storagePrefix(l.i.prefix)
	if namespace != "" {
		key += "/" + namespace
	}
	list := l.i.list()
	if err := l.storage.GetList(l.i.f.ctx, key, storage.ListOptions{Recursive: true, Predicate: storage.Everything}, list); err != nil {
		if errors.Is(err, context.Canceled) {
			return nil, nil
		}
		return nil, fmt.Errorf("list %s: %w", l.i.gvr.Resource, err)
	}
	objects, err := meta.ExtractList(list)
	if err != nil {
		return nil, err
	}
	out := make([]any, len(objects))
	for n, o := range objects {
		out[n] = o
	}
	return out, nil
}

// List has no way to tell an error; local reads fail only when the store's file does, and then the process ends.
func (l *liveIndexer) List() []any {
	out, err := l.under("")
	if err != nil {
		l.i.f.log.Error("list from the store failed", "resource", l.i.gvr.Resource, "err", err)
	}
	return out
}

func (l *liveIndexer) ListKeys() []string {
	var keys []string
	for _, o := range l.List() {
		if k, err := cache.MetaNamespaceKeyFunc(o); err == nil {
			keys = append(keys, k)
		}
	}
	return keys
}

func (l *liveIndexer) Index(name string, obj any) ([]any, error) {
	index := l.GetIndexers()[name]
	if index == nil {
		return nil, fmt.Errorf("index %s of %s does not exist", name, l.i.gvr.Resource)
	}
	values, err := index(obj)
	if err != nil {
		return nil, err
	}
	var out []any
	for _, v := range values {
		some, err := l.ByIndex(name, v)
		if err != nil {
			return nil, err
		}
		out = append(out, some...)
	}
	return out, nil
}

// ByIndex reads one namespace, or, for any other index, everything: an index that is asked for often belongs to a kept kind.
func (l *liveIndexer) ByIndex(name, value string) ([]any, error) {
	if name == cache.NamespaceIndex {
		return l.under(value)
	}
	l.mu.Lock()
	index := l.indexers[name]
	l.mu.Unlock()
	if index == nil {
		return nil, fmt.Errorf("index %s of %s does not exist", name, l.i.gvr.Resource)
	}
	all, err := l.under("")
	if err != nil {
		return nil, err
	}
	var out []any
	for _, o := range all {
		values, err := index(o)
		if err != nil {
			return nil, err
		}
		if slices.Contains(values, value) {
			out = append(out, o)
		}
	}
	return out, nil
}

func (l *liveIndexer) IndexKeys(name, value string) ([]string, error) {
	objects, err := l.ByIndex(name, value)
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, o := range objects {
		if k, err := cache.MetaNamespaceKeyFunc(o); err == nil {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

func (l *liveIndexer) ListIndexFuncValues(string) []string { return nil }

func (l *liveIndexer) GetIndexers() cache.Indexers {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}
	maps.Copy(out, l.indexers)
	return out
}

func (l *liveIndexer) AddIndexers(x cache.Indexers) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.indexers == nil {
		l.indexers = cache.Indexers{}
	}
	maps.Copy(l.indexers, x)
	return nil
}

func (l *liveIndexer) Add(any) error                        { return errReadOnly }
func (l *liveIndexer) Update(any) error                     { return errReadOnly }
func (l *liveIndexer) Delete(any) error                     { return errReadOnly }
func (l *liveIndexer) Replace([]any, string) error          { return errReadOnly }
func (l *liveIndexer) Resync() error                        { return nil }
func (l *liveIndexer) LastStoreSyncResourceVersion() string { return "" }
func (l *liveIndexer) Bookmark(string)                      {}
