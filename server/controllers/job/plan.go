package job

import (
	"cmp"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/pods"
)

const (
	// batch is how long changes of pods are gathered before they are counted: a
	// status is written for many of them.
	batch = time.Second
	// burst bounds what one step creates or deletes.
	burst = 500
	// mostUncounted bounds what a status lists of pods that are being counted.
	mostUncounted = 500
)

// observed is what a plan is made of; nothing of it is changed.
type observed struct {
	job     *batchv1.Job
	pods    []*corev1.Pod // that the Job controls
	backoff backoff
	now     time.Time
}

// plan is one step towards what the Job wants, in the order in which it is done.
type plan struct {
	stop    []*corev1.Pod // to delete; they are counted when they have ended
	drop    []*corev1.Pod // to take out of the count and then to delete
	create  []newPod
	status  batchv1.JobStatus
	backoff backoff
	events  []event       // of what the status tells
	release []*corev1.Pod // whose finalizer may go when the status is written
	again   bool          // there is more to do at once
	wake    time.Duration // when time alone changes something; zero for never
}

type event struct{ kind, reason, message string }

// planner holds what is derived from the observed while a plan is made.
type planner struct {
	observed
	plan   plan
	status *batchv1.JobStatus // of the plan

	active                    []*corev1.Pod
	running, ready, going     int32 // active, ready and terminating pods, after the plan
	succeeded, failed         int32 // with those that are only now being counted
	counting                  map[types.UID]bool
	done, lost                indexes
	delayed                   map[int]*corev1.Pod // failed pods that wait until another takes their index
	finish                    *batchv1.JobCondition
	newSucceeded, newlyFailed []*corev1.Pod
}

// decide makes the plan for a Job that has not finished.
func decide(o observed) plan {
	p := newPlanner(o)
	p.judge()
	switch {
	case p.ending():
		p.stop(p.active)
	case p.finish == nil:
		p.run()
	}
	p.count()
	p.conclude()
	p.status.Active, p.status.Ready, p.status.Terminating = p.running, &p.ready, &p.going
	return p.plan
}

func newPlanner(o observed) *planner {
	o.pods = slices.Clone(o.pods)
	slices.SortFunc(o.pods, func(a, b *corev1.Pod) int { return cmp.Or(indexOf(a)-indexOf(b), cmp.Compare(a.Name, b.Name)) })
	p := &planner{observed: o, counting: map[types.UID]bool{}}
	p.plan.status = *o.job.Status.DeepCopy()
	p.status = &p.plan.status
	if p.status.UncountedTerminatedPods == nil {
		p.status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	if p.status.StartTime == nil && !suspended(o.job) {
		p.status.StartTime = &metav1.Time{Time: o.now}
	}
	p.active = pods.Filter(o.pods, pods.IsActive)
	p.running = int32(len(p.active))
	p.ready = int32(len(pods.Filter(p.active, pods.IsReady)))
	p.going = int32(len(pods.Filter(o.pods, pods.IsTerminating)))
	p.sum()
	return p
}

// sum adds what has ended since the last count to what is counted.
func (p *planner) sum() {
	u := p.status.UncountedTerminatedPods
	for _, uid := range slices.Concat(u.Succeeded, u.Failed) {
		p.counting[uid] = true
	}
	for _, pod := range p.pods {
		switch {
		case !isTracked(pod) || p.counting[pod.UID] || !p.counts(pod):
		case pod.Status.Phase == corev1.PodSucceeded:
			p.newSucceeded = append(p.newSucceeded, pod)
		case hasFailed(p.job, pod):
			p.newlyFailed = append(p.newlyFailed, pod)
		}
	}
	p.succeeded = p.job.Status.Succeeded + int32(len(u.Succeeded)+len(p.newSucceeded))
	p.failed = p.job.Status.Failed + int32(len(u.Failed))
	for _, pod := range p.newlyFailed {
		if !judgeFailure(p.job.Spec.PodFailurePolicy, pod).ignored {
			p.failed++
		}
	}
	p.plan.backoff = p.backoff.after(p.newSucceeded, p.newlyFailed)
	if isIndexed(p.job) {
		p.sumIndexes()
		p.succeeded = int32(p.done.count())
	}
}

// sumIndexes finds the indexes that have succeeded, those that have failed for
// good, and the failed pods that must stay until another takes their index: the
// other learns from them how often the index has failed.
func (p *planner) sumIndexes() {
	completions := int(*p.job.Spec.Completions)
	done, lost := map[int]bool{}, map[int]bool{}
	for _, pod := range p.pods {
		i := indexOf(pod)
		switch {
		case !isTracked(pod) || !p.counts(pod):
		case pod.Status.Phase == corev1.PodSucceeded:
			done[i] = true
		case isPerIndex(p.job) && hasFailed(p.job, pod) && losesIndex(p.job, pod):
			lost[i] = true
		}
	}
	p.done = parseIndexes(p.job.Status.CompletedIndexes, completions).union(indexesOf(done))
	if !isPerIndex(p.job) {
		return
	}
	if before := p.job.Status.FailedIndexes; before != nil {
		p.lost = parseIndexes(*before, completions)
	}
	p.lost = p.lost.union(indexesOf(lost))
	p.delayed = map[int]*corev1.Pod{}
	running := indexSet(p.active)
	for _, pod := range p.pods {
		i := indexOf(pod)
		if !isTracked(pod) || !p.counts(pod) || !hasFailed(p.job, pod) || p.done.has(i) || p.lost.has(i) || running[i] {
			continue
		}
		if last := p.delayed[i]; last == nil || laterFailure(last, pod) {
			p.delayed[i] = pod
		}
	}
}

func laterFailure(a, b *corev1.Pod) bool {
	return allFailures(a) <= allFailures(b) && !endOf(b).Before(endOf(a))
}

func allFailures(p *corev1.Pod) int32 {
	counted, ignored := failuresOf(p)
	return counted + ignored
}

// losesIndex says that with the failure of this pod its index has failed.
func losesIndex(j *batchv1.Job, pod *corev1.Pod) bool {
	v := judgeFailure(j.Spec.PodFailurePolicy, pod)
	before, _ := failuresOf(pod)
	return v.failIndex || !v.ignored && before >= *j.Spec.BackoffLimitPerIndex
}

func indexSet(all []*corev1.Pod) map[int]bool {
	out := map[int]bool{}
	for _, pod := range all {
		if i := indexOf(pod); i != noIndex {
			out[i] = true
		}
	}
	return out
}

// counts says that a pod can count: in an Indexed Job its index must be one of the Job's.
func (p *planner) counts(pod *corev1.Pod) bool {
	if !isIndexed(p.job) {
		return true
	}
	i := indexOf(pod)
	return i != noIndex && i < int(*p.job.Spec.Completions)
}

func suspended(j *batchv1.Job) bool { return j.Spec.Suspend != nil && *j.Spec.Suspend }

// replacesLate says that a pod is replaced only when it has ended, and not when it was told to.
func replacesLate(j *batchv1.Job) bool {
	return j.Spec.PodReplacementPolicy != nil && *j.Spec.PodReplacementPolicy == batchv1.Failed
}

// hasFailed counts a pod that was told to go as failed, because it may never
// say how it ended, unless the Job waits for that.
func hasFailed(j *batchv1.Job, pod *corev1.Pod) bool {
	switch pod.Status.Phase {
	case corev1.PodFailed:
		return true
	case corev1.PodSucceeded:
		return false
	}
	return pod.DeletionTimestamp != nil && !replacesLate(j)
}
