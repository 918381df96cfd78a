package shortage

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"

	"bramble.dev/agent/podspec"
)

// rank sorts pods by who is to go first when a signal is met: those that use more than they asked for, then those of the least
// priority, then those that use most above what they asked for. The kernel's count of processes knows no requests.
func rank(all []*Use, s Signal, split bool) {
	slices.SortStableFunc(all, func(a, b *Use) int {
		first := func(a, b bool) int {
			switch {
			case a == b:
				return 0
			case a:
				return -1
			}
			return 1
		}
		byPriority := cmp.Compare(podspec.Priority(a.Pod), podspec.Priority(b.Pod))
		if s == PIDAvailable {
			return cmp.Or(byPriority, cmp.Compare(b.Pids, a.Pids))
		}
		if !s.disk() && (!a.Counted || !b.Counted) {
			return first(!a.Counted, !b.Counted)
		}
		above := func(u *Use) int64 { return u.of(s, split) - request(u.Pod, s) }
		return cmp.Or(first(above(a) > 0, above(b) > 0), byPriority, cmp.Compare(above(b), above(a)))
	})
}

// of is what the pod uses of what is short.
func (u *Use) of(s Signal, split bool) int64 {
	switch {
	case s == MemoryAvailable:
		return u.Memory
	case s == PIDAvailable:
		return u.Pids
	}
	return u.disk(s, split).in(s)
}

func request(pod *corev1.Pod, s Signal) int64 {
	if s.resource() == inodes || s.resource() == pids {
		return 0
	}
	q := resource.PodRequests(pod, resource.PodResourcesOptions{})[s.resource()]
	return q.Value()
}

// worthwhile are the pods whose end gives something back, the first to go at the front. A pod that holds nothing of a full
// disk is left alone: the disk is full of something else, and would be full without it.
func worthwhile(all []*Use, s Signal, split bool) []*Use {
	least := int64(0)
	switch {
	case s.resource() == inodes:
		least = 100
	case s.disk():
		least = 1 << 20
	}
	out := slices.DeleteFunc(slices.Clone(all), func(u *Use) bool { return critical(u.Pod) || u.of(s, split) < least })
	rank(out, s, split)
	return out
}
