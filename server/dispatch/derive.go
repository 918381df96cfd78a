package dispatch

import (
	"fmt"
	"maps"
	"slices"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"bramble.dev/link"
)

// Annotations of a Node that belong to this package.
const (
	// MACAnnotation is the hardware address of the node's VXLAN device.
	MACAnnotation = "bramble.dev/vxlan-mac"
	// InstanceAnnotation is the id of the node's installation.
	InstanceAnnotation = "bramble.dev/instance"
	// SessionAnnotation is the number of the node's newest session.
	SessionAnnotation = "bramble.dev/session"
)

// objects is what the derivation reads of the cluster; the caches, or maps in a test.
type objects interface {
	node(name string) (*corev1.Node, bool)
	podsOn(node string) []*corev1.Pod
	// content gives a ConfigMap, a Secret or a handler, already encoded.
	content(r ref) (want, bool)
	claim(namespace, name string) (*corev1.PersistentVolumeClaim, bool)
	volume(name string) (*corev1.PersistentVolume, bool)
	trustBundle(name string) (*certificatesv1beta1.ClusterTrustBundle, bool)
	trustBundles(signer string) []*certificatesv1beta1.ClusterTrustBundle
	// removals are the volumes that the node is to remove.
	removals(node string) []*corev1.PersistentVolume
	policies(namespace string) []*networkingv1.NetworkPolicy
	// ingressSecrets are those that nodes need which serve Ingresses.
	ingressSecrets() []ref
}

// marshaler is a Kubernetes type with its protobuf encoding.
type marshaler interface{ Marshal() ([]byte, error) }

// want is an item that a node is to have: version tells whether the object is the one that was
// encoded before, value encodes it.
type want struct {
	version string
	value   func() ([]byte, error)
}

func wantOf(uid, version string, trim func() marshaler) want {
	return want{uid + "/" + version, func() ([]byte, error) { return trim().Marshal() }}
}

// nodeItems is what a node needs: a pure function of the cluster's objects. refs are the objects
// that its pods name, also those that do not exist yet; left are the pods that are misplaced there.
func nodeItems(name string, o objects) (items map[string]want, refs map[ref]bool, left []*corev1.Pod) {
	items, refs = map[string]want{}, map[ref]bool{}
	n, known := o.node(name)
	pods := o.podsOn(name)
	if known {
		items["node/"+name] = wantOf(string(n.UID), n.ResourceVersion, func() marshaler { return trimNode(n) })
		pods = slices.DeleteFunc(slices.Clone(pods), func(pod *corev1.Pod) bool {
			out := misplaced(pod, n)
			if out {
				left = append(left, pod)
			}
			return out
		})
	}
	policyItems(pods, o, items)
	for _, pod := range pods {
		items["pods/"+pod.Namespace+"/"+pod.Name] = wantOf(string(pod.UID), pod.ResourceVersion, func() marshaler { return trimPod(pod) })
		needs(pod, func(r ref) { refs[r] = true })
		trustNeeds(pod, o, func(r ref) { refs[r] = true })
	}
	for _, pv := range o.removals(name) {
		items[removalKey(pv.Name)] = wantOf(string(pv.UID), "", func() marshaler { return trimVolume(pv) })
	}
	if known && link.ServesIngresses(n) {
		for _, r := range o.ingressSecrets() {
			refs[r] = true
		}
	}
	for r := range refs {
		if r.kind == claim {
			if c, ok := o.claim(r.namespace, r.name); ok && c.Spec.VolumeName != "" {
				refs[ref{kind: volume, name: c.Spec.VolumeName}] = true
			}
		}
	}
	for r := range refs {
		if w, ok := wantRef(r, o); ok {
			items[r.key()] = w
		}
	}
	return items, refs, left
}

func wantRef(r ref, o objects) (want, bool) {
	switch r.kind {
	case configMap, secret, handler:
		return o.content(r)
	case claim:
		if x, ok := o.claim(r.namespace, r.name); ok {
			return wantOf(string(x.UID), x.ResourceVersion, func() marshaler { return trimClaim(x) }), true
		}
	case volume:
		if x, ok := o.volume(r.name); ok {
			return wantOf(string(x.UID), x.ResourceVersion, func() marshaler { return trimVolume(x) }), true
		}
	case trustBundle:
		if x, ok := o.trustBundle(r.name); ok {
			return wantOf(string(x.UID), x.ResourceVersion, func() marshaler { return trimTrustBundle(x) }), true
		}
	}
	return want{}, false
}

// derived is a set together with what its items were made from.
type derived struct {
	set      *link.Set
	versions map[string]string
	refs     map[ref]bool
}

func newDerived() *derived { return &derived{set: link.NewSet(), versions: map[string]string{}} }

// become makes the set hold the items and nothing else; objects that did not change are not
// encoded again.
func (d *derived) become(items map[string]want) (changed bool, err error) {
	for key := range d.versions {
		if _, ok := items[key]; !ok {
			delete(d.versions, key)
			changed = d.set.Delete(key) || changed
		}
	}
	for _, key := range slices.Sorted(maps.Keys(items)) { // the order in which they are sent: policies before pods
		w := items[key]
		if d.versions[key] == w.version {
			continue
		}
		value, e := w.value()
		if e != nil {
			err = fmt.Errorf("dispatch: encode %s: %w", key, e)
			continue
		}
		d.versions[key] = w.version
		changed = d.set.Put(key, value) || changed
	}
	return changed, err
}

// Items of the shared set.

func serviceKey(s *corev1.Service) string { return "services/" + s.Namespace + "/" + s.Name }

func endpointSliceKey(s *discoveryv1.EndpointSlice) string {
	return "endpointslices/" + s.Namespace + "/" + s.Name
}

func peerKey(node string) string { return "peers/" + node }

// peerOf is what other nodes must know of a node; false while it has no address or no subnet.
func peerOf(n *corev1.Node) (link.Peer, bool) {
	p := link.Peer{Node: n.Name, PodCIDR: n.Spec.PodCIDR, MAC: n.Annotations[MACAnnotation], Site: n.Labels[link.SiteLabel]}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP && p.IP == "" {
			p.IP = a.Address
		}
	}
	return p, p.IP != "" && p.PodCIDR != ""
}
