package scheduler

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	corev1 "k8s.io/api/core/v1"
)

// spreadConstraint bounds how unevenly pods may lie over places.
type spreadConstraint struct {
	key            string
	selector       labels.Selector
	maxSkew        int
	minDomains     int
	honourAffinity bool // count only nodes that the pod may be on
	honourTaints   bool
}

// spreadCount is how many pods a constraint selects in each place.
type spreadCount struct {
	places map[string]int
	least  int
}

// constraintsOf parses a pod's constraints: those that refuse and those that prefer.
func constraintsOf(pod *corev1.Pod) (hard, soft []spreadConstraint) {
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		s := selectorOf(c.LabelSelector)
		// Keys let pods of one revision be spread without the others.
		for _, key := range c.MatchLabelKeys {
			if v, ok := pod.Labels[key]; ok && c.LabelSelector != nil {
				also := metav1.AddLabelToSelector(c.LabelSelector.DeepCopy(), key, v)
				s = selectorOf(also)
			}
		}
		out := spreadConstraint{
			key: c.TopologyKey, selector: s, maxSkew: int(c.MaxSkew), minDomains: 1,
			honourAffinity: c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor,
			honourTaints:   c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
		}
		if c.MinDomains != nil {
			out.minDomains = int(*c.MinDomains)
		}
		if c.WhenUnsatisfiable == corev1.ScheduleAnyway {
			soft = append(soft, out)
		} else {
			hard = append(hard, out)
		}
	}
	return hard, soft
}

// countSpread counts each constraint's pods over the nodes that it looks at.
func countSpread(p *candidate, constraints []spreadConstraint, nodes []*nodeState) []spreadCount {
	out := make([]spreadCount, len(constraints))
	for i := range constraints {
		c := &constraints[i]
		out[i].places = map[string]int{}
		for _, n := range nodes {
			value, ok := n.node.Labels[c.key]
			if !ok || !hasAllKeys(n.node, constraints) || (c.honourAffinity && selected(p, n) != nil) || (c.honourTaints && tolerated(p, n) != nil) {
				continue
			}
			out[i].places[value] += c.count(p.pod, n)
		}
		first := true
		for _, count := range out[i].places {
			if first || count < out[i].least {
				out[i].least, first = count, false
			}
		}
		if len(out[i].places) < c.minDomains {
			out[i].least = 0
		}
	}
	return out
}

func hasAllKeys(node *corev1.Node, constraints []spreadConstraint) bool {
	for i := range constraints {
		if _, ok := node.Labels[constraints[i].key]; !ok {
			return false
		}
	}
	return true
}

// count is how many of a node's pods the constraint selects: none if it selects all there are, as upstream counts.
func (c *spreadConstraint) count(pod *corev1.Pod, n *nodeState) int {
	count := 0
	if c.selector.Empty() {
		return count
	}
	for _, other := range n.pods {
		if other.pod.Namespace == pod.Namespace && other.pod.DeletionTimestamp == nil && other.pod.UID != pod.UID && c.selector.Matches(labels.Set(other.pod.Labels)) {
			count++
		}
	}
	return count
}

// spread refuses a node where the pod would lie too unevenly.
func spread(p *candidate, n *nodeState) *refusal {
	for i := range p.spread {
		c := &p.spread[i]
		value, ok := n.node.Labels[c.key]
		if !ok {
			return never("node(s) didn't match pod topology spread constraints (missing required label)")
		}
		self := 0
		if c.selector.Matches(labels.Set(p.pod.Labels)) {
			self = 1
		}
		if p.counts[i].places[value]+self-p.counts[i].least > c.maxSkew {
			return &refusal{reasons: []string{"node(s) didn't match pod topology spread constraints"}, resolvable: true}
		}
	}
	return nil
}

// scoreSpread prefers places with few pods that the soft constraints select, or,
// for a pod without any, nodes with few pods of the same owner.
func scoreSpread(p *candidate, n *nodeState) int64 {
	if len(p.spreadSoft) == 0 {
		if p.owner == nil {
			return 0
		}
		return -int64(n.owned[p.owner.UID])
	}
	var sum int64
	for i := range p.spreadSoft {
		value, ok := n.node.Labels[p.spreadSoft[i].key]
		if !ok {
			return -1 << 30
		}
		sum -= int64(p.softCounts[i].places[value])
	}
	return sum
}
