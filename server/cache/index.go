package cache

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	corev1 "k8s.io/api/core/v1"
)

// Names of the indexes that readers share.
const (
	byOwner = "owner"
	byNode  = "node" // of pods
	// orphans are kept under their namespace, which is no UID.
	orphanPrefix = "orphan/"
)

// index finds objects by keys that a function reads from them.
type index[T any] struct {
	keys  func(*T) []string
	found map[string]map[*T]struct{}
}

func (ix *index[T]) add(object *T) {
	for _, key := range ix.keys(object) {
		if ix.found[key] == nil {
			ix.found[key] = map[*T]struct{}{}
		}
		ix.found[key][object] = struct{}{}
	}
}

func (ix *index[T]) remove(object *T) {
	for _, key := range ix.keys(object) {
		delete(ix.found[key], object)
		if len(ix.found[key]) == 0 {
			delete(ix.found, key)
		}
	}
}

// ByIndex returns the objects that have a key in the index of this name. The
// index is built when it is first asked for and kept from then on; keys must
// depend on nothing but the object.
func (c *Cache[T]) ByIndex(name string, keys func(*T) []string, key string) []*T {
	c.mu.RLock()
	ix, ok := c.indexes[name]
	if ok {
		defer c.mu.RUnlock()
		return members(ix, key)
	}
	c.mu.RUnlock()

	c.mu.Lock()
	defer c.mu.Unlock()
	if ix, ok = c.indexes[name]; !ok {
		ix = &index[T]{keys: keys, found: map[string]map[*T]struct{}{}}
		for _, objects := range c.objects {
			for _, object := range objects {
				ix.add(object)
			}
		}
		c.indexes[name] = ix
	}
	return members(ix, key)
}

func members[T any](ix *index[T], key string) []*T {
	out := make([]*T, 0, len(ix.found[key]))
	for object := range ix.found[key] {
		out = append(out, object)
	}
	return out
}

// ByOwner returns the objects that the owner with this UID controls.
func (c *Cache[T]) ByOwner(uid types.UID) []*T {
	return c.ByIndex(byOwner, ownerKeys[T], string(uid))
}

// Orphans returns the objects of a namespace that nobody controls.
func (c *Cache[T]) Orphans(namespace string) []*T {
	return c.ByIndex(byOwner, ownerKeys[T], orphanPrefix+namespace)
}

func ownerKeys[T any](object *T) []string {
	m := meta(object)
	if ref := metav1.GetControllerOfNoCopy(m); ref != nil {
		return []string{string(ref.UID)}
	}
	return []string{orphanPrefix + m.GetNamespace()}
}

// OnNode returns the pods that are bound to a node.
func OnNode(pods *Cache[corev1.Pod], node string) []*corev1.Pod {
	return pods.ByIndex(byNode, nodeKeys, node)
}

func nodeKeys(pod *corev1.Pod) []string {
	if pod.Spec.NodeName == "" {
		return nil
	}
	return []string{pod.Spec.NodeName}
}
