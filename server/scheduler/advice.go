package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	corev1 "k8s.io/api/core/v1"
)

// mostNamed bounds the nodes that a sentence names.
const mostNamed = 3

// advice is what upstream's words about a pod that fits nowhere leave open, for
// whoever would now have to look at each node: which taint, how much is missing,
// which label nobody has. It is told in events, after upstream's words, and is
// not part of the condition, which would be written with each change of what is free.
func advice(p *candidate, nodes []*nodeState) string {
	var out []string
	for _, say := range []func(*candidate, []*nodeState) string{cordoned, tainted, missing, unlabelled, alone, crowded, portsTaken, lodged, driverless} {
		if s := say(p, nodes); s != "" {
			out = append(out, s)
		}
	}
	return strings.Join(out, " ")
}

// refusedBy are the nodes that a filter refuses.
func refusedBy(f filter, p *candidate, nodes []*nodeState) []*nodeState {
	return slices.DeleteFunc(slices.Clone(nodes), func(n *nodeState) bool { return f(p, n) == nil })
}

func cordoned(p *candidate, nodes []*nodeState) string {
	var names []string
	for _, n := range refusedBy(schedulable, p, nodes) {
		names = append(names, n.node.Name)
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("Cordoned: %s (kubectl uncordon opens a node again).", some(names))
}

// reasons of the taints that come by themselves.
var reasons = map[string]string{
	corev1.TaintNodeUnreachable:    "away",
	corev1.TaintNodeNotReady:       "not ready",
	corev1.TaintNodeMemoryPressure: "short of memory",
	corev1.TaintNodeDiskPressure:   "short of disk space",
	corev1.TaintNodePIDPressure:    "short of process IDs",
}

func tainted(p *candidate, nodes []*nodeState) string {
	named := map[string][]string{}
	for _, n := range refusedBy(tolerated, p, nodes) {
		what := reasons[corev1.TaintNodeNotReady]
		for _, t := range n.node.Spec.Taints {
			if t.Key == corev1.TaintNodeUnschedulable || t.Effect == corev1.TaintEffectPreferNoSchedule || tolerates(p, t) {
				continue
			}
			if what = reasons[t.Key]; what == "" {
				what = "tainted " + t.ToString()
			}
			break
		}
		if !n.node.Spec.Unschedulable {
			named[what] = append(named[what], n.node.Name)
		}
	}
	var out []string
	for _, what := range slices.Sorted(maps.Keys(named)) {
		out = append(out, some(named[what])+" "+isOrAre(named[what])+" "+what)
	}
	if len(out) == 0 {
		return ""
	}
	return "Of the nodes, " + strings.Join(out, "; ") + "."
}

// missing compares what a pod asks for with the most that any node has free, of
// the first resource that all nodes lack which fit would be asked about.
func missing(p *candidate, nodes []*nodeState) string {
	type amount struct {
		name      corev1.ResourceName
		asked     int64
		free, all func(*nodeState) int64
	}
	all := []amount{
		{corev1.ResourceCPU, p.requests.cpu, func(n *nodeState) int64 { return n.allocatable.cpu - n.requested.cpu }, func(n *nodeState) int64 { return n.allocatable.cpu }},
		{corev1.ResourceMemory, p.requests.memory, func(n *nodeState) int64 { return n.allocatable.memory - n.requested.memory }, func(n *nodeState) int64 { return n.allocatable.memory }},
		{corev1.ResourceEphemeralStorage, p.requests.storage, func(n *nodeState) int64 { return n.allocatable.storage - n.requested.storage }, func(n *nodeState) int64 { return n.allocatable.storage }},
	}
	for _, name := range slices.Sorted(maps.Keys(p.requests.others)) {
		all = append(all, amount{name, p.requests.others[name],
			func(n *nodeState) int64 { return n.allocatable.others[name] - n.requested.others[name] }, func(n *nodeState) int64 { return n.allocatable.others[name] }})
	}
	// Only nodes that the pod may be on are of interest.
	nodes = slices.DeleteFunc(slices.Clone(nodes), func(n *nodeState) bool {
		return schedulable(p, n) != nil || tolerated(p, n) != nil || selected(p, n) != nil
	})
	if len(nodes) == 0 {
		return ""
	}
	most := func(of func(*nodeState) int64) (*nodeState, int64) {
		n := slices.MaxFunc(nodes, func(a, b *nodeState) int { return int(max(min(of(a)-of(b), 1), -1)) })
		return n, of(n)
	}
	for _, a := range all {
		if a.asked == 0 {
			continue
		}
		if n, free := most(a.free); a.asked > free {
			if largest, has := most(a.all); a.asked > has {
				return fmt.Sprintf("It asks for %s of %s; no node has more than %s (%s).", written(a.name, a.asked), a.name, written(a.name, has), largest.node.Name)
			}
			return fmt.Sprintf("It asks for %s of %s; no node has more than %s free (%s).", written(a.name, a.asked), a.name, written(a.name, max(free, 0)), n.node.Name)
		}
	}
	return ""
}

// unlabelled names what no node has of that which a pod asks of its node.
func unlabelled(p *candidate, nodes []*nodeState) string {
	if len(refusedBy(selected, p, nodes)) < len(nodes) {
		return unspread(p, nodes)
	}
	var nobody []string
	for _, key := range slices.Sorted(maps.Keys(p.pod.Spec.NodeSelector)) {
		value := p.pod.Spec.NodeSelector[key]
		if !slices.ContainsFunc(nodes, func(n *nodeState) bool { has, ok := n.node.Labels[key]; return ok && has == value }) {
			nobody = append(nobody, key+"="+value)
		}
	}
	if len(nobody) > 0 {
		return fmt.Sprintf("No node has the label %s (kubectl label node NAME %s).", strings.Join(nobody, ", nor "), nobody[0])
	}
	if a := p.pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		return fmt.Sprintf("Its node affinity asks for %s.", terms(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution))
	}
	return ""
}

// unspread names a label by which pods are to be spread, and which no node has.
func unspread(p *candidate, nodes []*nodeState) string {
	for _, c := range p.spread {
		if !slices.ContainsFunc(nodes, func(n *nodeState) bool { _, ok := n.node.Labels[c.key]; return ok }) {
			return fmt.Sprintf("Its pods are to be spread over the label %s, which no node has.", c.key)
		}
	}
	return ""
}

// terms is what is asked of a node, as one would write a selector.
func terms(s *corev1.NodeSelector) string {
	var out []string
	for _, term := range s.NodeSelectorTerms {
		var parts []string
		for _, e := range slices.Concat(term.MatchExpressions, term.MatchFields) {
			part := fmt.Sprintf("%s %s", e.Key, strings.ToLower(string(e.Operator)))
			if len(e.Values) > 0 {
				part += " (" + some(e.Values) + ")"
			}
			parts = append(parts, part)
		}
		out = append(out, strings.Join(parts, ", "))
	}
	return strings.Join(out, " or ")
}

// portsTaken names who has the ports of the board which a pod asks for: pods, or the cluster itself.
func portsTaken(p *candidate, nodes []*nodeState) string {
	var by []string
	for _, n := range refusedBy(freePorts, p, nodes) {
		for _, port := range ownPorts(p, n) {
			by = append(by, fmt.Sprintf("%d on %s by the cluster's server", port, n.node.Name))
		}
		for _, other := range n.pods {
			for _, used := range hostPorts(other.pod) {
				if slices.ContainsFunc(p.hostPorts, used.conflicts) {
					by = append(by, fmt.Sprintf("%d on %s by %s/%s", used.port, n.node.Name, other.pod.Namespace, other.pod.Name))
				}
			}
		}
	}
	if len(by) == 0 {
		return ""
	}
	slices.Sort(by) // the same words each time are one event
	return fmt.Sprintf("Host ports are taken: %s.", some(by))
}

// written is an amount as manifests have it.
func written(name corev1.ResourceName, n int64) string {
	switch name {
	case corev1.ResourceCPU:
		return resource.NewMilliQuantity(n, resource.DecimalSI).String()
	case corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		if n > 10<<20 {
			n = n >> 20 << 20 // whole Mi are easier to read
		}
		return resource.NewQuantity(n, resource.BinarySI).String()
	}
	return resource.NewQuantity(n, resource.DecimalSI).String()
}

// some names a few of many.
func some(names []string) string {
	if len(names) <= mostNamed {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:mostNamed], ", "), len(names)-mostNamed)
}

func isOrAre(names []string) string {
	if len(names) == 1 {
		return "is"
	}
	return "are"
}
