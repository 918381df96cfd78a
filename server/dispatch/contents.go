package dispatch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"bramble.dev/server/cache"
)

// contents holds the ConfigMaps, Secrets and handlers that some node needs, encoded as they are sent, and no
// others: a cluster may have thousands that no running pod names. Changes are learnt from the
// store, by their keys alone; the object is then read through the API.
type contents struct {
	client kubernetes.Interface
	caches *cache.Set
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

func newContents(client kubernetes.Interface, caches *cache.Set, dirty func(string)) *contents {
	return &contents{client: client, caches: caches, dirty: dirty, items: map[ref]*content{}}
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
			it = &content{nodes: map[string]bool{}, read: r.kind.cached()}
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
	switch r.kind {
	case handler:
		x, err := c.client.NodeV1().RuntimeClasses().Get(ctx, r.name, metav1.GetOptions{})
		if err != nil {
			return nil, "", err
		}
		return []byte(x.Handler), string(x.UID), nil
	case configMap:
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
		it.read, it.stale = r.kind.cached(), true
		nodes = maps.Clone(it.nodes)
	}
	c.mu.Unlock()
	for n := range nodes {
		c.dirty(n)
	}
}

// follow learns of changes of a resource until stop is called.
func (c *contents) follow(k kind, resource schema.GroupResource) (stop func()) {
	return c.caches.OnKey(resource, func(key types.NamespacedName, _ []byte) {
		if key.Name != "" {
			c.changed(ref{k, key.Namespace, key.Name})
			return
		}
		for _, r := range c.held(k) {
			c.changed(r)
		}
	})
}

func (c *contents) held(k kind) (out []ref) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range c.items {
		if r.kind == k {
			out = append(out, r)
		}
	}
	return out
}
