package scheduler

import (
	"fmt"
	"slices"
	"strings"
)

// alone names what a pod must be near and nobody is.
func alone(p *candidate, nodes []*nodeState) string {
	if len(p.affinity.near) == 0 || p.company(p.pod) { // the first of a group may be anywhere
		return ""
	}
	for _, n := range nodes {
		for _, other := range n.pods {
			if p.company(other.pod) {
				return ""
			}
		}
	}
	var all []string
	for i := range p.affinity.near {
		all = append(all, p.affinity.near[i].selector.String())
	}
	return fmt.Sprintf("It must be near pods with %s, and there are none.", strings.Join(all, " and "))
}

// crowded names the pods that a pod must not be near, or that must not be near it.
func crowded(p *candidate, nodes []*nodeState) string {
	var by []string
	for _, n := range nodes {
		others := n.pods
		if len(p.affinity.far) == 0 {
			others = n.withRules
		}
		for _, other := range others {
			if p.apartFrom(other) {
				by = append(by, fmt.Sprintf("%s/%s (on %s)", other.pod.Namespace, other.pod.Name, n.node.Name))
			}
		}
	}
	if len(by) == 0 {
		return ""
	}
	slices.Sort(by) // the same words each time are one event
	return fmt.Sprintf("By anti-affinity it stays apart from %s: it takes more nodes, or fewer replicas.", some(by))
}

// apartFrom tells whether a rule of the pod, or one of the other, keeps the two apart.
func (p *candidate) apartFrom(other *podState) bool {
	if other.pod.UID == p.pod.UID {
		return false
	}
	for i := range p.affinity.far {
		if p.matches(&p.affinity.far[i], other.pod) {
			return true
		}
	}
	for i := range other.affinity.far {
		if p.matches(&other.affinity.far[i], p.pod) {
			return true
		}
	}
	return false
}
