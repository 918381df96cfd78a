package scheduler

import (
	"fmt"
	"maps"
	"math"
	"slices"

	resourcehelper "k8s.io/component-helpers/resource"

	corev1 "k8s.io/api/core/v1"
)

// What a pod that asks for nothing counts as when nodes are scored, so that
// many of them spread.
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 << 20
)

// amounts are resources as numbers: CPU in thousandths, all others whole. The
// ones that every pod has are fields, because a decision reads them of every node.
type amounts struct {
	cpu, memory, storage int64
	others               map[corev1.ResourceName]int64
}

func amountsOf(list corev1.ResourceList) amounts {
	var out amounts
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			out.cpu = q.MilliValue()
		case corev1.ResourceMemory:
			out.memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			out.storage = q.Value()
		default:
			if out.others == nil {
				out.others = map[corev1.ResourceName]int64{}
			}
			out.others[name] = q.Value()
		}
	}
	return out
}

// requestsOf is what a pod keeps from others: its containers with sidecars, or
// the largest init container, and the overhead.
func requestsOf(pod *corev1.Pod) amounts {
	return amountsOf(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}))
}

// below says whether less is asked for of what can be resized.
func (a amounts) below(b amounts) bool { return a.cpu < b.cpu || a.memory < b.memory }

// add adds sign times b.
func (a *amounts) add(b amounts, sign int64) {
	a.cpu += sign * b.cpu
	a.memory += sign * b.memory
	a.storage += sign * b.storage
	for name, n := range b.others {
		if a.others == nil {
			a.others = map[corev1.ResourceName]int64{}
		}
		a.others[name] += sign * n
	}
}

// fit refuses a node that lacks what a pod asks for. Taking pods away helps
// unless the node is too small even when it is empty.
func fit(p *candidate, n *nodeState) *refusal {
	var r *refusal
	lacks := func(reason string, resolvable bool) {
		if r == nil {
			r = &refusal{resolvable: true}
		}
		r.reasons = append(r.reasons, reason)
		r.resolvable = r.resolvable && resolvable
	}
	if int64(len(n.pods))+1 > n.allocatable.others[corev1.ResourcePods] {
		lacks("Too many pods", true)
	}
	check := func(name corev1.ResourceName, asked, used, has int64) {
		if asked > 0 && asked > has-used {
			lacks(fmt.Sprintf("Insufficient %v", name), asked <= has)
		}
	}
	check(corev1.ResourceCPU, p.requests.cpu, n.requested.cpu, n.allocatable.cpu)
	check(corev1.ResourceMemory, p.requests.memory, n.requested.memory, n.allocatable.memory)
	check(corev1.ResourceEphemeralStorage, p.requests.storage, n.requested.storage, n.allocatable.storage)
	if len(p.requests.others) == 0 {
		return r
	}
	for _, name := range slices.Sorted(maps.Keys(p.requests.others)) {
		check(name, p.requests.others[name], n.requested.others[name], n.allocatable.others[name])
	}
	return r
}

// scoreLeastAllocated prefers nodes with much left.
func scoreLeastAllocated(p *candidate, n *nodeState) int64 {
	left := func(has, used int64) int64 {
		if has == 0 || used >= has {
			return 0
		}
		return (has - used) * maxScore / has
	}
	return (left(n.allocatable.cpu, n.counted.cpu+max(p.requests.cpu, defaultMilliCPU)) +
		left(n.allocatable.memory, n.counted.memory+max(p.requests.memory, defaultMemory))) / 2
}

// scoreBalanced prefers nodes whose CPU and memory are used in the same measure.
func scoreBalanced(p *candidate, n *nodeState) int64 {
	part := func(used, has int64) float64 {
		if has == 0 {
			return 1
		}
		return min(float64(used)/float64(has), 1)
	}
	difference := part(n.requested.cpu+p.requests.cpu, n.allocatable.cpu) - part(n.requested.memory+p.requests.memory, n.allocatable.memory)
	return int64((1 - math.Abs(difference)/2) * maxScore)
}
