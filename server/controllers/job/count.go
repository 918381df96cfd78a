package job

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// count moves the pods that have ended one write further: those without a
// finalizer from the list of the uncounted into the counters, those with one
// into that list (or their index into the completed ones), after which the
// finalizer may go.
func (p *planner) count() {
	p.settle()
	u := p.status.UncountedTerminatedPods
	dropped := map[*corev1.Pod]bool{}
	for _, pod := range p.plan.drop {
		dropped[pod] = true
	}
	newIndexes := 0
	for _, pod := range p.pods {
		if !isTracked(pod) || dropped[pod] || !p.mayRelease(pod) {
			continue
		}
		if newIndexes+len(u.Succeeded)+len(u.Failed) >= mostUncounted {
			p.plan.again = true
			break
		}
		p.plan.release = append(p.plan.release, pod)
		p.plan.again = true
		switch {
		case p.counting[pod.UID] || !p.counts(pod):
		case pod.Status.Phase == corev1.PodSucceeded:
			if isIndexed(p.job) {
				newIndexes++
			} else {
				u.Succeeded = append(u.Succeeded, pod.UID)
			}
		case p.endsAsFailure(pod) && !judgeFailure(p.job.Spec.PodFailurePolicy, pod).ignored:
			u.Failed = append(u.Failed, pod.UID)
		}
	}
	if !isIndexed(p.job) {
		return
	}
	p.status.CompletedIndexes = p.done.String()
	p.status.Succeeded = int32(p.done.count())
	p.status.FailedIndexes = nil
	if isPerIndex(p.job) {
		lost := p.lost.String()
		p.status.FailedIndexes = &lost
	}
}

// settle counts those whose finalizer is gone.
func (p *planner) settle() {
	tracked := map[types.UID]bool{}
	for _, pod := range p.pods {
		tracked[pod.UID] = isTracked(pod)
	}
	u := p.status.UncountedTerminatedPods
	succeeded, failed := keep(u.Succeeded, tracked), keep(u.Failed, tracked)
	p.status.Succeeded += int32(len(u.Succeeded) - len(succeeded))
	p.status.Failed += int32(len(u.Failed) - len(failed))
	u.Succeeded, u.Failed = succeeded, failed
}

func keep(uids []types.UID, tracked map[types.UID]bool) []types.UID {
	return slices.DeleteFunc(slices.Clone(uids), func(uid types.UID) bool { return !tracked[uid] })
}

// mayRelease says that nothing is lost with a pod's finalizer.
func (p *planner) mayRelease(pod *corev1.Pod) bool {
	switch {
	case p.job.DeletionTimestamp != nil || p.ending() || pod.Status.Phase == corev1.PodSucceeded:
		return true
	case !hasFailed(p.job, pod):
		return false
	}
	waiting := p.delayed[indexOf(pod)]
	return waiting == nil || waiting.UID != pod.UID
}

// endsAsFailure counts as failed also what runs when the Job fails.
func (p *planner) endsAsFailure(pod *corev1.Pod) bool {
	return hasFailed(p.job, pod) || p.ending() && p.finish.Type == batchv1.JobFailureTarget
}
