package scheduler

import (
	"fmt"
	"slices"
	"strings"
)

// noNodes is the message of a pod that finds an empty cluster.
const noNodes = "no nodes available to schedule pods"

// decision is what becomes of a pod.
type decision struct {
	node     string   // where it goes; empty if nowhere
	message  string   // why nowhere
	advice   string   // more words about it
	victims  *victims // whom to take away so that it fits
	refusals map[string]*refusal
	looked   int // how many nodes were asked
	// nominated is the node that stays promised, because victims are ending there.
	nominated string
}

// mayResolve says whether pods that end on a node can make it one for the pod: not if it is cordoned, or away.
func (d decision) mayResolve(node string) bool {
	r := d.refusals[node]
	return r == nil || r.resolvable
}

// look counts what filters and scores must know about all nodes at once.
func look(p *candidate, nodes []*nodeState) *candidate {
	out := *p
	out.seen = countNeighbours(&out, nodes)
	out.counts = countSpread(&out, out.spread, nodes)
	out.softCounts = countSpread(&out, out.spreadSoft, nodes)
	return &out
}

// enough is how many nodes that fit are compared: in a large cluster a part of it, as upstream does, because the best of
// some hundred is hardly better than the best of some dozen.
func enough(nodes int) int {
	percent := max(50-nodes/125, 5)
	return max(nodes*percent/100, min(nodes, 100))
}

// decide finds the best node for a pod among the nodes as they are; the first
// that is asked is number turn of them. nominated gives the room that pods of no
// less priority wait for on a node.
func decide(p *candidate, nodes []*nodeState, turn int, nominated func(node string) []*podState) decision {
	if len(nodes) == 0 {
		return decision{message: noNodes}
	}
	p = look(p, nodes)
	fitting := make([]*nodeState, 0, enough(len(nodes)))
	refusals := map[string]*refusal{}
	looked := 0
	for ; looked < len(nodes) && len(fitting) < cap(fitting); looked++ {
		n := nodes[(turn+looked)%len(nodes)]
		with := n
		if waiting := nominated(n.node.Name); len(waiting) > 0 {
			with = n.with(waiting)
		}
		if r := refuse(p, with); r != nil {
			refusals[n.node.Name] = r
		} else {
			fitting = append(fitting, n)
		}
	}
	if len(fitting) > 0 {
		return decision{node: best(p, fitting).node.Name, refusals: refusals, looked: looked}
	}
	return decision{message: explain(len(nodes), refusals), refusals: refusals, looked: looked}
}

// explain counts the reasons of all nodes.
func explain(nodes int, refusals map[string]*refusal) string {
	counts := map[string]int{}
	for _, r := range refusals {
		for _, reason := range r.reasons {
			counts[reason]++
		}
	}
	reasons := make([]string, 0, len(counts))
	for reason, count := range counts {
		reasons = append(reasons, fmt.Sprintf("%d %s", count, reason))
	}
	slices.Sort(reasons)
	out := fmt.Sprintf("0/%d nodes are available:", nodes)
	if len(reasons) > 0 {
		out += " " + strings.Join(reasons, ", ") + "."
	}
	return out
}
