package dispatch

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// A NetworkPolicy goes to the nodes that have a pod that it selects, in the same set as the pod and
// before it: no node has a pod without what isolates it. The pods that it names as peers are shared,
// one small item each. While no policy names any, nothing of this is anywhere.

// policyItems adds the policies that select one of the pods.
func policyItems(pods []*corev1.Pod, o objects, items map[string]want) {
	in := map[string][]*corev1.Pod{}
	for _, p := range pods {
		if !p.Spec.HostNetwork {
			in[p.Namespace] = append(in[p.Namespace], p)
		}
	}
	for namespace, pods := range in {
		for _, np := range o.policies(namespace) {
			s, err := metav1.LabelSelectorAsSelector(&np.Spec.PodSelector)
			if err == nil && slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return s.Matches(labels.Set(p.Labels)) }) {
				items["networkpolicies/"+np.Namespace+"/"+np.Name] = wantOf(string(np.UID), np.ResourceVersion, func() marshaler { return trimPolicy(np) })
			}
		}
	}
}

func trimPolicy(in *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: in.Namespace, Name: in.Name}, Spec: in.Spec}
}

// peering is whom the cluster's policies name as peers. nil: nobody.
type peering struct {
	text          string // the same for the same
	selectors     []peerSelector
	podKeys       map[string]bool // labels of pods that selectors look at
	namespaceKeys map[string]bool
	named         bool // ports by their names
}

type peerSelector struct {
	namespace string          // of the policy, unless where is given
	where     labels.Selector // of namespaces
	who       labels.Selector
}

func peeringOf(policies []*networkingv1.NetworkPolicy) *peering {
	p := &peering{podKeys: map[string]bool{}, namespaceKeys: map[string]bool{}}
	lines := map[string]bool{}
	for _, np := range policies {
		for _, r := range np.Spec.Ingress {
			p.add(np.Namespace, r.From, lines)
		}
		for _, r := range np.Spec.Egress {
			named := slices.ContainsFunc(r.Ports, func(p networkingv1.NetworkPolicyPort) bool { return p.Port != nil && p.Port.Type == intstr.String })
			p.named = p.named || named
			if named && len(r.To) == 0 { // any pod that has such a port
				p.add(np.Namespace, []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{}}}, lines)
			}
			p.add(np.Namespace, r.To, lines)
		}
	}
	if len(p.selectors) == 0 {
		return nil
	}
	p.text = fmt.Sprint(p.named, slices.Sorted(maps.Keys(lines)))
	return p
}

func (p *peering) add(namespace string, peers []networkingv1.NetworkPolicyPeer, lines map[string]bool) {
	for _, peer := range peers {
		if peer.IPBlock != nil || peer.PodSelector == nil && peer.NamespaceSelector == nil {
			continue
		}
		s := peerSelector{namespace: namespace, who: labels.Everything()}
		var err error
		if peer.PodSelector != nil {
			if s.who, err = metav1.LabelSelectorAsSelector(peer.PodSelector); err != nil {
				continue
			}
		}
		if peer.NamespaceSelector != nil {
			if s.where, err = metav1.LabelSelectorAsSelector(peer.NamespaceSelector); err != nil {
				continue
			}
			s.namespace = ""
		}
		line := fmt.Sprintf("%q %v %v", s.namespace, s.where, s.who)
		if lines[line] {
			continue
		}
		lines[line] = true
		p.selectors = append(p.selectors, s)
		note(p.podKeys, peer.PodSelector)
		note(p.namespaceKeys, peer.NamespaceSelector)
	}
}

// note adds the keys that a selector looks at.
func note(keys map[string]bool, s *metav1.LabelSelector) {
	if s == nil {
		return
	}
	for k := range s.MatchLabels {
		keys[k] = true
	}
	for _, e := range s.MatchExpressions {
		keys[e.Key] = true
	}
}

// has says whether a pod is one that a policy names.
func (p *peering) has(pod *corev1.Pod, namespace map[string]string) bool {
	return slices.ContainsFunc(p.selectors, func(s peerSelector) bool {
		if s.where == nil && s.namespace != pod.Namespace || s.where != nil && !s.where.Matches(labels.Set(namespace)) {
			return false
		}
		return s.who.Matches(labels.Set(pod.Labels))
	})
}

// trim is what policies see of a pod.
func (p *peering) trim(in *corev1.Pod) *corev1.Pod {
	out := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: in.Namespace, Name: in.Name, Labels: only(in.Labels, p.podKeys)}}
	out.Status.PodIP = in.Status.PodIP
	if !p.named {
		return out
	}
	var c corev1.Container
	sidecars := slices.DeleteFunc(slices.Clone(in.Spec.InitContainers), func(c corev1.Container) bool {
		return c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways
	})
	for _, from := range slices.Concat(in.Spec.Containers, sidecars) {
		for _, port := range from.Ports {
			if port.Name != "" {
				c.Ports = append(c.Ports, corev1.ContainerPort{Name: port.Name, ContainerPort: port.ContainerPort, Protocol: port.Protocol})
			}
		}
	}
	if len(c.Ports) > 0 {
		out.Spec.Containers = []corev1.Container{c}
	}
	return out
}

func only(in map[string]string, keys map[string]bool) map[string]string {
	var out map[string]string
	for k, v := range in {
		if keys[k] {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}

func policyPeerKey(p *corev1.Pod) string { return "policypeers/" + p.Namespace + "/" + p.Name }

func namespaceKey(name string) string { return "namespaces/" + name }

// policiesKey, in the dirty set: which peers the policies name may have changed.
const policiesKey = "policies/"

// policyPeer is a pod that policies name, at the sites where it can be reached. The caller holds mu.
func (s *shared) policyPeer(x *corev1.Pod) valueAt {
	p := s.peering.Load()
	if p == nil || x.Spec.HostNetwork || x.Status.PodIP == "" || x.Spec.NodeName == "" || ended(x.Status.Phase) {
		return nowhere
	}
	var namespace map[string]string
	if n, ok := s.caches.Namespaces().Get("", x.Namespace); ok {
		namespace = n.Labels
	}
	if !p.has(x, namespace) {
		return nowhere
	}
	value, err := p.trim(x).Marshal()
	return func(site string) ([]byte, error) {
		if s.siteOf(x.Spec.NodeName) != site {
			return nil, nil
		}
		return value, err
	}
}

// namespace is what policies look at of a namespace. One without such labels need not be known.
func (s *shared) namespace(x *corev1.Namespace) valueAt {
	p := s.peering.Load()
	if p == nil {
		return nowhere
	}
	l := only(x.Labels, p.namespaceKeys)
	if l == nil {
		return nowhere
	}
	value, err := (&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: x.Name, Labels: l}}).Marshal()
	return func(string) ([]byte, error) { return value, err }
}

// settlePolicies brings the peers up to date with what the policies name now. It lists the items that
// may have changed.
func (s *shared) settlePolicies() (keys []string) {
	now, before := peeringOf(s.caches.NetworkPolicies().List("", nil)), s.peering.Load()
	if now == nil && before == nil || now != nil && before != nil && now.text == before.text {
		return nil
	}
	s.peering.Store(now)
	all := map[string]bool{}
	s.mu.Lock()
	for _, set := range s.sites {
		for _, key := range set.Keys() {
			if strings.HasPrefix(key, "policypeers/") || strings.HasPrefix(key, "namespaces/") {
				all[key] = true
			}
		}
	}
	s.mu.Unlock()
	if now != nil {
		for _, x := range s.caches.Pods().List("", nil) {
			all[policyPeerKey(x)] = true
		}
		for _, x := range s.caches.Namespaces().List("", nil) {
			all[namespaceKey(x.Name)] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// peersOn lists the pods on nodes as policies may name them.
func (s *shared) peersOn(nodes map[string]bool) (keys []string) {
	if s.peering.Load() == nil {
		return nil
	}
	for _, x := range s.caches.Pods().List("", nil) {
		if nodes[x.Spec.NodeName] {
			keys = append(keys, policyPeerKey(x))
		}
	}
	return keys
}

// policyChanged marks what a change of a policy touches: the nodes of its namespace's pods, and whom
// policies name.
func (d *Dispatcher) policyChanged(np *networkingv1.NetworkPolicy) {
	d.dirty.add(policiesKey)
	for _, p := range d.cfg.Caches.Pods().List(np.Namespace, nil) {
		if p.Spec.NodeName != "" {
			d.dirty.add(nodeKey(p.Spec.NodeName))
		}
	}
}

// namespaceChanged marks what a change of a namespace's labels touches.
func (d *Dispatcher) namespaceChanged(n *corev1.Namespace) {
	if d.shared.peering.Load() == nil {
		return
	}
	d.dirty.add(namespaceKey(n.Name))
	for _, p := range d.cfg.Caches.Pods().List(n.Name, nil) {
		d.dirty.add(policyPeerKey(p))
	}
}
