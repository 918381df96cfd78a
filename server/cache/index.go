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
type index struct {
	keys  func(metav1.Object) []string
	found map[string]map[metav1.Object]struct{}
}

func (ix *index) add(object metav1.Object) {
	for _, key := range ix.keys(object) {
		if ix.found[key] == nil {
			ix.found[key] = map[metav1.Object]struct{}{}
		}
		ix.found[key][object] = struct{}{}
	}
}

func (ix *index) remove(object metav1.Object) {
	for _, key := range ix.keys(object) {
		delete(ix.found[key], object)
		if len(ix.found[key]) == 0 {
			delete(ix.found, key)
		}
	}
}

func (ix *index) members(key string) []metav1.Object {
	out := make([]metav1.Object, 0, len(ix.found[key]))
	for object := range ix.found[key] {
		out = append(out, object)
	}
	return out
}

// ByIndex returns the objects that have a key in the index of this name. The
// index is built when it is first asked for and kept from then on; keys must
// depend on nothing but the object.
func (c *Cache[T]) ByIndex(name string, keys func(*T) []string, key string) []*T {
	return typed[T](c.byIndex(name, func(object metav1.Object) []string { return keys(as[T](object)) }, key))
}

func (c *content) byIndex(name string, keys func(metav1.Object) []string, key string) []metav1.Object {
	c.mu.RLock()
	ix, ok := c.indexes[name]
	if ok {
		defer c.mu.RUnlock()
		return ix.members(key)
	}
	c.mu.RUnlock()

	c.mu.Lock()
	defer c.mu.Unlock()
	if ix, ok = c.indexes[name]; !ok {
		ix = &index{keys: keys, found: map[string]map[metav1.Object]struct{}{}}
		for _, objects := range c.objects {
			for _, object := range objects {
				ix.add(object)
			}
		}
		c.indexes[name] = ix
	}
	return ix.members(key)
}

// ByOwner returns the objects that the owner with this UID controls.
func (c *Cache[T]) ByOwner(uid types.UID) []*T {
	return typed[T](c.byIndex(byOwner, ownerKeys, string(uid)))
}

// Orphans returns the objects of a namespace that nobody controls.
func (c *Cache[T]) Orphans(namespace string) []*T {
	return typed[T](c.byIndex(byOwner, ownerKeys, orphanPrefix+namespace))
}

func ownerKeys(object metav1.Object) []string {
	if ref := metav1.GetControllerOfNoCopy(object); ref != nil {
		return []string{string(ref.UID)}
	}
	return []string{orphanPrefix + object.GetNamespace()}
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
