package scheduler

import (
	"cmp"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
)

// victims are the pods of one node that have to go for another.
type victims struct {
	node      string
	pods      []*podState // the most important first
	violating int         // how many of them a disruption budget protects
}

// preempt finds the node where the least important pods have to go. If there is
// none, the message says why.
func preempt(p *candidate, nodes []*nodeState, refusals map[string]*refusal, budgets []*policyv1.PodDisruptionBudget, nominated func(string) []*podState) (*victims, string) {
	if p.pod.Spec.PreemptionPolicy != nil && *p.pod.Spec.PreemptionPolicy == corev1.PreemptNever {
		return nil, "preemption: not eligible due to preemptionPolicy=Never."
	}
	why := map[string]*refusal{}
	var best *victims
	for i, n := range nodes {
		if r := refusals[n.node.Name]; r == nil || !r.resolvable {
			why[n.node.Name] = never("Preemption is not helpful for scheduling")
			continue
		}
		v, r := victimsOn(p, nodes, i, budgets, nominated)
		if r != nil {
			why[n.node.Name] = r
			continue
		}
		if best == nil || cheaper(v, best) {
			best = v
		}
	}
	if best == nil {
		return nil, "preemption: " + explain(len(nodes), why)
	}
	return best, ""
}

// victimsOn finds the fewest pods of less priority without which the pod fits.
func victimsOn(p *candidate, nodes []*nodeState, at int, budgets []*policyv1.PodDisruptionBudget, nominated func(string) []*podState) (*victims, *refusal) {
	n := nodes[at]
	priority := schedulinghelper.PodPriority(p.pod)
	var lower []*podState
	for _, other := range n.pods {
		if schedulinghelper.PodPriority(other.pod) < priority {
			lower = append(lower, other)
		}
	}
	if len(lower) == 0 {
		return nil, never("No preemption victims found for incoming pod")
	}
	slices.SortFunc(lower, moreImportant)
	try := func(gone []*podState) *refusal {
		all := slices.Clone(nodes)
		all[at] = n.without(gone)
		with := all[at]
		if waiting := nominated(n.node.Name); len(waiting) > 0 {
			with = with.with(waiting)
		}
		return refuse(look(p, all), with)
	}
	if r := try(lower); r != nil {
		return nil, r
	}
	// Spare as many as possible, those that a budget protects and the important first.
	protected, others := divide(lower, budgets)
	gone := lower
	out := &victims{node: n.node.Name}
	for i, candidate := range append(slices.Clone(protected), others...) {
		without := slices.DeleteFunc(slices.Clone(gone), func(o *podState) bool { return o == candidate })
		if try(without) == nil {
			gone = without
		} else if i < len(protected) {
			out.violating++
		}
	}
	out.pods = gone
	return out, nil
}

// divide tells pods that a budget protects, counting down what each allows.
func divide(all []*podState, budgets []*policyv1.PodDisruptionBudget) (protected, others []*podState) {
	allowed := make([]int32, len(budgets))
	for i, b := range budgets {
		allowed[i] = b.Status.DisruptionsAllowed
	}
	for _, p := range all {
		violates := false
		for i, b := range budgets {
			s := selectorOf(b.Spec.Selector)
			if b.Namespace != p.pod.Namespace || s.Empty() || !s.Matches(labels.Set(p.pod.Labels)) {
				continue
			}
			if _, already := b.Status.DisruptedPods[p.pod.Name]; already {
				continue
			}
			allowed[i]--
			violates = violates || allowed[i] < 0
		}
		if violates {
			protected = append(protected, p)
		} else {
			others = append(others, p)
		}
	}
	return protected, others
}

// moreImportant orders pods by priority and then by how long they have run.
func moreImportant(a, b *podState) int {
	return cmp.Or(
		cmp.Compare(schedulinghelper.PodPriority(b.pod), schedulinghelper.PodPriority(a.pod)),
		started(a).Compare(started(b)),
		cmp.Compare(a.pod.UID, b.pod.UID),
	)
}

// cheaper compares what is lost on two nodes.
func cheaper(a, b *victims) bool {
	sum := func(v *victims) (s int64) {
		for _, p := range v.pods {
			s += int64(schedulinghelper.PodPriority(p.pod)) - (-1 << 31)
		}
		return s
	}
	highest := func(v *victims) int32 {
		if len(v.pods) == 0 {
			return -1 << 31
		}
		return schedulinghelper.PodPriority(v.pods[0].pod)
	}
	return cmp.Or(
		cmp.Compare(a.violating, b.violating),
		cmp.Compare(highest(a), highest(b)),
		cmp.Compare(sum(a), sum(b)),
		cmp.Compare(len(a.pods), len(b.pods)),
		latest(b).Compare(latest(a)),
		cmp.Compare(a.node, b.node),
	) < 0
}

func started(p *podState) time.Time {
	if t := p.pod.Status.StartTime; t != nil {
		return t.Time
	}
	return p.pod.CreationTimestamp.Time
}

// latest is when the first of the most important victims started: the later,
// the less work is lost.
func latest(v *victims) time.Time {
	var t time.Time
	for _, p := range v.pods {
		if schedulinghelper.PodPriority(p.pod) == schedulinghelper.PodPriority(v.pods[0].pod) && (t.IsZero() || started(p).Before(t)) {
			t = started(p)
		}
	}
	return t
}
