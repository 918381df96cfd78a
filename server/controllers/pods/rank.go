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
			uselessFirst(a, b),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			cmp.Compare(crowd[b.Spec.NodeName], crowd[a.Spec.NodeName]),
			youngerFirst(readySince(a), readySince(b), now, a, b),
			restartedFirst(a, b),
			youngerFirst(a.CreationTimestamp.Time, b.CreationTimestamp.Time, now, a, b),
		)
	})
	return sorted[:n]
}

// LeastDone picks n pods that a Job gives up. What they have done is lost, unlike what a server has served: the youngest go
// first, to the second, and neither their neighbours nor their cost by annotation matter.
func LeastDone(active []*corev1.Pod, n int) []*corev1.Pod {
	if n >= len(active) {
		return active
	}
	sorted := slices.Clone(active)
	slices.SortStableFunc(sorted, func(a, b *corev1.Pod) int {
		return cmp.Or(
			uselessFirst(a, b),
			laterFirst(readySince(a), readySince(b)),
			restartedFirst(a, b),
			laterFirst(a.CreationTimestamp.Time, b.CreationTimestamp.Time),
		)
	})
	return sorted[:n]
}

func uselessFirst(a, b *corev1.Pod) int {
	return cmp.Or(
		falseFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""),
		cmp.Compare(phaseRank(a), phaseRank(b)),
		falseFirst(IsReady(a), IsReady(b)),
	)
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

func laterFirst(a, b time.Time) int {
	if a.IsZero() || b.IsZero() {
		return falseFirst(!a.IsZero(), !b.IsZero())
	}
	return b.Compare(a)
}

func magnitude(age time.Duration) int64 {
	if age <= 0 {
		return 0
	}
	return int64(math.Log2(float64(age)))
}

// restartedFirst compares by the container that was restarted most often; sidecars decide only between equals.
func restartedFirst(a, b *corev1.Pod) int {
	appsA, sidecarsA := restarts(a)
	appsB, sidecarsB := restarts(b)
	return cmp.Or(cmp.Compare(appsB, appsA), cmp.Compare(sidecarsB, sidecarsA))
}

func restarts(p *corev1.Pod) (apps, sidecars int32) {
	for _, c := range p.Status.ContainerStatuses {
		apps = max(apps, c.RestartCount)
	}
	for _, c := range p.Status.InitContainerStatuses {
		if slices.ContainsFunc(p.Spec.InitContainers, func(i corev1.Container) bool {
			return i.Name == c.Name && i.RestartPolicy != nil && *i.RestartPolicy == corev1.ContainerRestartPolicyAlways
		}) {
			sidecars = max(sidecars, c.RestartCount)
		}
	}
	return apps, sidecars
}
