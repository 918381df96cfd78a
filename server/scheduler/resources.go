package scheduler

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	corev1 "k8s.io/api/core/v1"
)

// What a pod that asks for nothing counts as when nodes are scored, so that
// many of them spread.
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 << 20
)

// amounts are resources as numbers: CPU in thousandths, all others whole.
type amounts map[corev1.ResourceName]int64

func amountsOf(list corev1.ResourceList) amounts {
	out := make(amounts, len(list))
	for name, q := range list {
		out[name] = number(name, q)
	}
	return out
}

func number(name corev1.ResourceName, q resource.Quantity) int64 {
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

// requestsOf is what a pod keeps from others: its containers with sidecars, or
// the largest init container, and the overhead.
func requestsOf(pod *corev1.Pod) amounts {
	return amountsOf(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{UseStatusResources: true}))
}

func (a amounts) add(b amounts) {
	for name, n := range b {
		a[name] += n
	}
}

func (a amounts) sub(b amounts) {
	for name, n := range b {
		a[name] -= n
	}
}

// fit refuses a node that lacks what a pod asks for. Taking pods away helps
// unless the node is too small even when it is empty.
func fit(p *candidate, n *nodeState) *refusal {
	var reasons []string
	resolvable := true
	if max := n.allocatable[corev1.ResourcePods]; int64(len(n.pods))+1 > max {
		reasons = append(reasons, "Too many pods")
	}
	names := make([]corev1.ResourceName, 0, len(p.requests))
	for name := range p.requests {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		asked := p.requests[name]
		if asked == 0 || asked <= n.allocatable[name]-n.requested[name] {
			continue
		}
		reasons = append(reasons, fmt.Sprintf("Insufficient %v", name))
		resolvable = resolvable && asked <= n.allocatable[name]
	}
	if len(reasons) == 0 {
		return nil
	}
	return &refusal{reasons: reasons, resolvable: resolvable}
}

// scoreLeastAllocated prefers nodes with much left.
func scoreLeastAllocated(p *candidate, n *nodeState) int64 {
	var score, counted int64
	for name, least := range map[corev1.ResourceName]int64{corev1.ResourceCPU: defaultMilliCPU, corev1.ResourceMemory: defaultMemory} {
		has := n.allocatable[name]
		if has == 0 {
			continue
		}
		counted++
		used := n.counted[name] + max(p.requests[name], least)
		if used < has {
			score += (has - used) * maxScore / has
		}
	}
	if counted == 0 {
		return 0
	}
	return score / counted
}

// scoreBalanced prefers nodes whose CPU and memory are used in the same measure.
func scoreBalanced(p *candidate, n *nodeState) int64 {
	used := func(name corev1.ResourceName) float64 {
		if n.allocatable[name] == 0 {
			return 1
		}
		return min(float64(n.requested[name]+p.requests[name])/float64(n.allocatable[name]), 1)
	}
	difference := used(corev1.ResourceCPU) - used(corev1.ResourceMemory)
	if difference < 0 {
		difference = -difference
	}
	return int64((1 - difference/2) * maxScore)
}
