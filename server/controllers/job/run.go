package job

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/pods"
)

// run plans pods for a Job that goes on, and ends it if there is no more to run.
func (p *planner) run() {
	managed := p.job.DeletionTimestamp == nil
	if managed {
		p.size()
	}
	switch {
	case p.enough():
		p.finish = newCondition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods", p.now)
	case managed:
		p.noteSuspension()
		if left, ok := p.deadline(); ok {
			p.wakeIn(left)
		}
	}
}

// noteSuspension tells of a suspension and its end. The time of the start goes
// and comes with them, since a deadline counts only the time that a Job runs.
func (p *planner) noteSuspension() {
	c := newCondition(batchv1.JobSuspended, "JobSuspended", "Job suspended", p.now)
	if suspended(p.job) {
		if setCondition(p.status, c) {
			p.status.StartTime = nil
			p.tell(corev1.EventTypeNormal, "Suspended", "Job suspended")
		}
		return
	}
	c.Status, c.Reason, c.Message = corev1.ConditionFalse, "JobResumed", "Job resumed"
	if setCondition(p.status, c) {
		p.status.StartTime = &metav1.Time{Time: p.now}
		p.tell(corev1.EventTypeNormal, "Resumed", "Job resumed")
	}
}

// size brings the number of active pods to what is wanted: in one step pods are
// either given up or made.
func (p *planner) size() {
	if suspended(p.job) {
		p.drop(p.active)
		return
	}
	wanted := p.wanted()
	if surplus := p.surplus(max(int(p.running-wanted), 0)); len(surplus) > 0 {
		p.drop(surplus[:min(len(surplus), burst)])
		return
	}
	missing := wanted - p.running
	if replacesLate(p.job) {
		missing -= p.going
	}
	if missing > 0 {
		p.make(int(min(missing, burst)))
	}
}

func (p *planner) wanted() int32 {
	parallel := *p.job.Spec.Parallelism
	if p.job.Spec.Completions == nil {
		if p.succeeded > 0 {
			return p.running // who runs may finish; nobody begins any more
		}
		return parallel
	}
	return max(min(parallel, *p.job.Spec.Completions-p.succeeded), 0)
}

// surplus are pods to give up: those without a finalizer, which an earlier step
// has given up and not deleted yet, those whose index is wrong or taken, and as
// many others as it takes to give up at least so many.
func (p *planner) surplus(least int) []*corev1.Pod {
	var out, left []*corev1.Pod
	byIndex := map[int][]*corev1.Pod{}
	for _, pod := range p.active {
		switch {
		case !isTracked(pod) || !p.counts(pod):
			out = append(out, pod)
		case isIndexed(p.job):
			i := indexOf(pod)
			byIndex[i] = append(byIndex[i], pod)
		default:
			left = append(left, pod)
		}
	}
	for _, same := range byIndex {
		worst := pods.LeastDone(same, len(same)-1)
		out = append(out, worst...)
		left = append(left, without(same, worst)...)
	}
	if more := least - len(out); more > 0 {
		out = append(out, pods.LeastDone(left, more)...)
	}
	return out
}

func without(all, some []*corev1.Pod) []*corev1.Pod {
	gone := map[*corev1.Pod]bool{}
	for _, pod := range some {
		gone[pod] = true
	}
	return pods.Filter(all, func(pod *corev1.Pod) bool { return !gone[pod] })
}

// make plans n pods, or the time at which they may be made.
func (p *planner) make(n int) {
	if !isPerIndex(p.job) {
		if left := p.plan.backoff.left(p.now); left > 0 {
			p.wakeIn(max(left, batch))
			return
		}
	}
	if !isIndexed(p.job) {
		for range n {
			p.plan.create = append(p.plan.create, newPod{index: noIndex})
		}
		p.running += int32(n)
		return
	}
	var soonest time.Duration
	for _, i := range p.pending(n) {
		before := p.delayed[i]
		if before != nil {
			failures := backoff{failures: allFailures(before) + 1, last: endOf(before)}
			if left := failures.left(p.now); left > 0 {
				if soonest == 0 || left < soonest {
					soonest = left
				}
				continue
			}
		}
		p.plan.create = append(p.plan.create, newPod{index: i, replaces: before})
		p.running++
	}
	if soonest > 0 {
		p.wakeIn(max(soonest, batch))
	}
}

// pending are the first n indexes that nobody works on and that neither succeeded nor failed.
func (p *planner) pending(n int) []int {
	taken := indexSet(p.active)
	if replacesLate(p.job) {
		for i := range indexSet(pods.Filter(p.pods, pods.IsTerminating)) {
			taken[i] = true
		}
	}
	return p.done.union(p.lost).union(indexesOf(taken)).missing(n, int(*p.job.Spec.Completions))
}

func (p *planner) stop(some []*corev1.Pod) {
	p.plan.stop = some
	p.leave(some)
}

func (p *planner) drop(some []*corev1.Pod) {
	p.plan.drop = some
	p.leave(some)
}

func (p *planner) leave(some []*corev1.Pod) {
	p.running -= int32(len(some))
	p.going += int32(len(some))
	p.ready -= int32(len(pods.Filter(some, pods.IsReady)))
}

func (p *planner) wakeIn(d time.Duration) {
	if d > 0 && (p.plan.wake == 0 || d < p.plan.wake) {
		p.plan.wake = d
	}
}
