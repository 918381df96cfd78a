package pods

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// ToDelete picks n pods to give up, the least useful first: not yet scheduled,
// not yet running, not ready, cheap by annotation, crowded on one node,
// youngest. related are the pods that the crowding is counted over.
func ToDelete(active, related []*corev1.Pod, n int, now time.Time) []*corev1.Pod {
	if n >= len(active) {
		return active
	}
	crowd := map[string]int{}
	for _, p := range related {
		if IsActive(p) {
			crowd[p.Spec.NodeName]++
		}
	}
	sorted := slices.Clone(active)
	slices.SortStableFunc(sorted, func(a, b *corev1.Pod) int {
		return cmp.Or(
			falseFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""),
			cmp.Compare(phaseRank(a), phaseRank(b)),
			falseFirst(IsReady(a), IsReady(b)),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			cmp.Compare(crowd[b.Spec.NodeName], crowd[a.Spec.NodeName]),
			youngerFirst(readySince(a), readySince(b), now, a, b),
			cmp.Compare(restarts(b), restarts(a)),
			youngerFirst(a.CreationTimestamp.Time, b.CreationTimestamp.Time, now, a, b),
		)
	})
	return sorted[:n]
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case !a:
		return -1
	}
	return 1
}

func phaseRank(p *corev1.Pod) int {
	switch p.Status.Phase {
	case corev1.PodRunning:
		return 2
	case corev1.PodUnknown:
		return 1
	}
	return 0
}

func deletionCost(p *corev1.Pod) int64 {
	cost, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return cost
}

func readySince(p *corev1.Pod) time.Time {
	if !IsReady(p) {
		return time.Time{}
	}
	return Condition(p, corev1.PodReady).LastTransitionTime.Time
}

// youngerFirst compares ages by their order of magnitude, so that among pods of
// about the same age chance decides and not the one that restarted last.
func youngerFirst(a, b, now time.Time, pa, pb *corev1.Pod) int {
	if a.Equal(b) {
		return 0
	}
	if a.IsZero() || b.IsZero() {
		return falseFirst(!a.IsZero(), !b.IsZero())
	}
	if byAge := cmp.Compare(magnitude(now.Sub(a)), magnitude(now.Sub(b))); byAge != 0 {
		return byAge
	}
	return cmp.Compare(pa.UID, pb.UID)
}

func magnitude(age time.Duration) int64 {
	if age <= 0 {
		return 0
	}
	return int64(math.Log2(float64(age)))
}

func restarts(p *corev1.Pod) int32 {
	var most int32
	for _, c := range p.Status.ContainerStatuses {
		most = max(most, c.RestartCount)
	}
	return most
}
