package scheduler

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	corev1 "k8s.io/api/core/v1"
)

// term is one rule about other pods, parsed.
type term struct {
	selector   labels.Selector
	namespaces map[string]bool
	anywhere   labels.Selector // namespaces by their labels; nil: none
	key        string          // of the topology
	weight     int64           // of a preference; negative for anti-affinity
}

// podAffinity is what a pod asks of its neighbours.
type podAffinity struct {
	near, far []term // required
	soft      []term // preferred
}

func (a podAffinity) empty() bool { return len(a.near)+len(a.far)+len(a.soft) == 0 }

func affinityOf(pod *corev1.Pod) podAffinity {
	var out podAffinity
	a := pod.Spec.Affinity
	if a == nil {
		return out
	}
	if p := a.PodAffinity; p != nil {
		for i := range p.RequiredDuringSchedulingIgnoredDuringExecution {
			out.near = append(out.near, newTerm(pod, &p.RequiredDuringSchedulingIgnoredDuringExecution[i], 0))
		}
		for i := range p.PreferredDuringSchedulingIgnoredDuringExecution {
			w := &p.PreferredDuringSchedulingIgnoredDuringExecution[i]
			out.soft = append(out.soft, newTerm(pod, &w.PodAffinityTerm, int64(w.Weight)))
		}
	}
	if p := a.PodAntiAffinity; p != nil {
		for i := range p.RequiredDuringSchedulingIgnoredDuringExecution {
			out.far = append(out.far, newTerm(pod, &p.RequiredDuringSchedulingIgnoredDuringExecution[i], 0))
		}
		for i := range p.PreferredDuringSchedulingIgnoredDuringExecution {
			w := &p.PreferredDuringSchedulingIgnoredDuringExecution[i]
			out.soft = append(out.soft, newTerm(pod, &w.PodAffinityTerm, -int64(w.Weight)))
		}
	}
	return out
}

func newTerm(pod *corev1.Pod, t *corev1.PodAffinityTerm, weight int64) term {
	out := term{key: t.TopologyKey, weight: weight, selector: selectorOf(t.LabelSelector), namespaces: map[string]bool{}}
	for _, ns := range t.Namespaces {
		out.namespaces[ns] = true
	}
	if t.NamespaceSelector != nil {
		out.anywhere = selectorOf(t.NamespaceSelector)
	} else if len(t.Namespaces) == 0 {
		out.namespaces[pod.Namespace] = true
	}
	return out
}

// selectorOf parses a selector; what the API let through wrongly selects nothing.
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	out, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return out
}

// place is a value of a topology: all nodes with this label.
type place struct{ key, value string }

func placeOf(node *corev1.Node, key string) (place, bool) {
	v, ok := node.Labels[key]
	return place{key, v}, ok
}

// neighbours is what the pod's and the others' rules say about places, counted
// once for a decision.
type neighbours struct {
	near      map[place]int   // pods that all required affinity terms of the pod match, in the places of each
	far       []map[place]int // pods that each required anti-affinity term matches
	forbidden map[place]int   // places where another pod's anti-affinity forbids this one
	soft      map[place]int64 // sum of preferences, the pod's and the others'
}

// countNeighbours looks at every pod if the pod itself has rules, and only at
// those with rules of their own if not.
func countNeighbours(p *candidate, nodes []*nodeState) *neighbours {
	n := &neighbours{forbidden: map[place]int{}, soft: map[place]int64{}, near: map[place]int{}, far: counters(len(p.affinity.far))}
	for _, node := range nodes {
		others := node.pods
		if p.affinity.empty() {
			others = node.withRules
		}
		for _, other := range others {
			if other.pod.UID != p.pod.UID {
				n.ours(p, node.node, other.pod)
				n.theirs(p, node.node, other)
			}
		}
	}
	return n
}

func counters(n int) []map[place]int {
	out := make([]map[place]int, n)
	for i := range out {
		out[i] = map[place]int{}
	}
	return out
}

// ours counts a pod by the candidate's rules.
func (n *neighbours) ours(p *candidate, node *corev1.Node, other *corev1.Pod) {
	if p.company(other) {
		for i := range p.affinity.near {
			if at, ok := placeOf(node, p.affinity.near[i].key); ok {
				n.near[at]++
			}
		}
	}
	for i := range p.affinity.far {
		if at, ok := placeOf(node, p.affinity.far[i].key); ok && p.matches(&p.affinity.far[i], other) {
			n.far[i][at]++
		}
	}
	for i := range p.affinity.soft {
		if at, ok := placeOf(node, p.affinity.soft[i].key); ok && p.matches(&p.affinity.soft[i], other) {
			n.soft[at] += p.affinity.soft[i].weight
		}
	}
}

// theirs counts the candidate by a pod's rules.
func (n *neighbours) theirs(p *candidate, node *corev1.Node, other *podState) {
	for i := range other.affinity.far {
		if at, ok := placeOf(node, other.affinity.far[i].key); ok && p.matches(&other.affinity.far[i], p.pod) {
			n.forbidden[at]++
		}
	}
	for i := range other.affinity.soft {
		if at, ok := placeOf(node, other.affinity.soft[i].key); ok && p.matches(&other.affinity.soft[i], p.pod) {
			n.soft[at] += other.affinity.soft[i].weight
		}
	}
	for i := range other.affinity.near { // who needs it near is glad if it comes
		if at, ok := placeOf(node, other.affinity.near[i].key); ok && p.matches(&other.affinity.near[i], p.pod) {
			n.soft[at]++
		}
	}
}

// matches says whether a pod is one that a term is about.
func (p *candidate) matches(t *term, pod *corev1.Pod) bool {
	if !t.selector.Matches(labels.Set(pod.Labels)) {
		return false
	}
	if t.namespaces[pod.Namespace] {
		return true
	}
	return t.anywhere != nil && p.world != nil && t.anywhere.Matches(p.world.NamespaceLabels(pod.Namespace))
}

// affine refuses nodes by the rules about other pods.
func affine(p *candidate, n *nodeState) *refusal {
	if !p.near(n.node) {
		return never("node(s) didn't match pod affinity rules")
	}
	for i := range p.affinity.far {
		if at, ok := placeOf(n.node, p.affinity.far[i].key); ok && p.seen.far[i][at] > 0 {
			return &refusal{reasons: []string{"node(s) didn't match pod anti-affinity rules"}, resolvable: true}
		}
	}
	for at := range p.seen.forbidden {
		if here, ok := placeOf(n.node, at.key); ok && here == at {
			return &refusal{reasons: []string{"node(s) didn't satisfy existing pods anti-affinity rules"}, resolvable: true}
		}
	}
	return nil
}

// company says whether a pod is one that all required affinity terms are about: upstream looks for one that meets all of them, and
// not for one for each.
func (p *candidate) company(pod *corev1.Pod) bool {
	for i := range p.affinity.near {
		if !p.matches(&p.affinity.near[i], pod) {
			return false
		}
	}
	return len(p.affinity.near) > 0
}

// near says whether the required company is there. The first of a group that looks for its own kind may start anywhere.
func (p *candidate) near(node *corev1.Node) bool {
	missing := false
	for i := range p.affinity.near {
		at, ok := placeOf(node, p.affinity.near[i].key)
		if !ok {
			return false
		}
		missing = missing || p.seen.near[at] == 0
	}
	return !missing || len(p.seen.near) == 0 && p.company(p.pod)
}

// scoreNeighbours prefers places that the rules prefer.
func scoreNeighbours(p *candidate, n *nodeState) int64 {
	var sum int64
	for at, weight := range p.seen.soft {
		if here, ok := placeOf(n.node, at.key); ok && here == at {
			sum += weight
		}
	}
	return sum
}
