package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"

	"bramble.dev/server/cache"
)

// contents holds the ConfigMaps and Secrets that some node needs, encoded as they are sent, and no
// others: a cluster may have thousands that no running pod names. Changes are learnt from the
// store, by their keys alone; the object is then read through the API.
type contents struct {
	client kubernetes.Interface
	caches *cache.Set
	log    *slog.Logger
	dirty  func(node string)

	mu    sync.Mutex
	items map[ref]*content
}

// content is one object. It is read when it is first asked for, and again after a change.
type content struct {
	nodes  map[string]bool // that need it
	read   bool
	stale  bool // it changed while it was being read
	exists bool
	value  []byte
	// version is the object's UID and resource version.
	version string
}

func newContents(client kubernetes.Interface, caches *cache.Set, log *slog.Logger, dirty func(string)) *contents {
	return &contents{client: client, caches: caches, log: log, dirty: dirty, items: map[ref]*content{}}
}

// want tells which contents a node needs from now on.
func (c *contents) want(node string, refs map[ref]bool, before map[ref]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range before {
		if it := c.items[r]; it != nil && !refs[r] {
			if delete(it.nodes, node); len(it.nodes) == 0 {
				delete(c.items, r)
			}
		}
	}
	for r := range refs {
		it := c.items[r]
		if it == nil {
			// Of claims and volumes only who needs them is kept; the caches hold the rest.
			it = &content{nodes: map[string]bool{}, read: r.kind != configMap && r.kind != secret}
			c.items[r] = it
		}
		it.nodes[node] = true
	}
}

// forget drops what only this node needed.
func (c *contents) forget(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r, it := range c.items {
		if delete(it.nodes, node); len(it.nodes) == 0 {
			delete(c.items, r)
		}
	}
}

// load reads what was not read yet of what is wanted.
func (c *contents) load(ctx context.Context, refs map[ref]bool) (some bool, failed error) {
	for r := range refs {
		c.mu.Lock()
		it := c.items[r]
		need := it != nil && !it.read
		if need {
			it.stale = false
		}
		c.mu.Unlock()
		if !need {
			continue
		}
		some = true
		value, version, err := c.readOne(ctx, r)
		if err != nil && !apierrors.IsNotFound(err) {
			failed = fmt.Errorf("dispatch: read %s: %w", r.key(), err)
			continue
		}
		c.mu.Lock()
		it.exists, it.value, it.version, it.read = err == nil, value, version, !it.stale
		again := it.stale
		c.mu.Unlock()
		if again {
			failed = errors.Join(failed, errChanged)
		}
	}
	return some, failed
}

var errChanged = errors.New("dispatch: an object changed while it was read")

func (c *contents) readOne(ctx context.Context, r ref) (value []byte, version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if r.kind == configMap {
		x, err := c.client.CoreV1().ConfigMaps(r.namespace).Get(ctx, r.name, metav1.GetOptions{})
		if err != nil {
			return nil, "", err
		}
		value, err = trimConfigMap(x).Marshal()
		return value, string(x.UID) + "/" + x.ResourceVersion, err
	}
	x, err := c.client.CoreV1().Secrets(r.namespace).Get(ctx, r.name, metav1.GetOptions{})
	if err != nil {
		return nil, "", err
	}
	value, err = trimSecret(x).Marshal()
	return value, string(x.UID) + "/" + x.ResourceVersion, err
}

// get is what the derivation sees.
func (c *contents) get(r ref) (want, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	it := c.items[r]
	if it == nil || !it.exists {
		return want{}, false
	}
	value := it.value
	return want{it.version, func() ([]byte, error) { return value, nil }}, true
}

// changed notes that an object changed.
func (c *contents) changed(r ref) {
	c.mu.Lock()
	it := c.items[r]
	var nodes map[string]bool
	if it != nil {
		it.read, it.stale = r.kind != configMap && r.kind != secret, true
		nodes = maps.Clone(it.nodes)
	}
	c.mu.Unlock()
	for n := range nodes {
		c.dirty(n)
	}
}

// follow learns of changes until ctx is done.
func (c *contents) follow(ctx context.Context, k kind, resource string) {
	prefix := c.caches.Prefix(schema.GroupResource{Resource: resource})
	for ctx.Err() == nil {
		err := c.followOnce(ctx, k, prefix)
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, cache.ErrTooOld) {
			c.log.Error("changes cannot be followed", "prefix", prefix, "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

func (c *contents) followOnce(ctx context.Context, k kind, prefix string) error {
	f, err := c.caches.Source().Follow(prefix)
	if err != nil {
		return err
	}
	defer f.Close()
	f.Snapshot()
	// What changed before this moment is not told: everything that is held is read again.
	c.mu.Lock()
	held := make([]ref, 0, len(c.items))
	for r := range c.items {
		if r.kind == k {
			held = append(held, r)
		}
	}
	c.mu.Unlock()
	for _, r := range held {
		c.changed(r)
	}
	for {
		events, err := f.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			namespace, name, ok := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(e.Key, prefix), "/"), "/")
			if ok {
				c.changed(ref{k, namespace, name})
			}
		}
	}
}
