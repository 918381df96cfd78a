package dispatch

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"bramble.dev/server/cache"
)

// state reads the caches, and the contents that nodes need, for the derivation.
type state struct {
	caches   *cache.Set
	contents *contents
}

func (s state) node(name string) (*corev1.Node, bool) { return s.caches.Nodes().Get("", name) }

func (s state) podsOn(node string) []*corev1.Pod {
	return cache.OnNode(s.caches.Pods(), node)
}

func (s state) content(r ref) (want, bool) { return s.contents.get(r) }

func (s state) claim(namespace, name string) (*corev1.PersistentVolumeClaim, bool) {
	return s.caches.PersistentVolumeClaims().Get(namespace, name)
}

func (s state) policies(namespace string) []*networkingv1.NetworkPolicy {
	return s.caches.NetworkPolicies().List(namespace, nil)
}

func (s state) volume(name string) (*corev1.PersistentVolume, bool) {
	return s.caches.PersistentVolumes().Get("", name)
}

func (s state) removals(node string) []*corev1.PersistentVolume {
	return s.caches.PersistentVolumes().ByIndex("dispatch-removal", nodeOfRemoval, node)
}
