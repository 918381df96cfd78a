package job

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// judge finds out whether the Job is to end. What an earlier step has decided
// stays; failures come before success.
func (p *planner) judge() {
	if c := met(p.job, batchv1.JobSuccessCriteriaMet); c != nil {
		p.finish = c
		return
	}
	if c := met(p.job, batchv1.JobFailureTarget); c != nil {
		p.finish = c
		return
	}
	if reason, message := p.failure(); reason != "" {
		p.finish = newCondition(batchv1.JobFailureTarget, reason, message, p.now)
		return
	}
	if isIndexed(p.job) {
		if message, ok := succeedsBy(p.job.Spec.SuccessPolicy, int(*p.job.Spec.Completions), p.done); ok {
			p.finish = newCondition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, message, p.now)
		}
	}
}

func (p *planner) failure() (reason, message string) {
	spec := &p.job.Spec
	for _, pod := range p.pods {
		if hasFailed(p.job, pod) {
			if v := judgeFailure(spec.PodFailurePolicy, pod); v.failJob != "" {
				return batchv1.JobReasonPodFailurePolicy, v.failJob
			}
		}
	}
	if p.failed > *spec.BackoffLimit || p.restartsTooOften() {
		return batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit"
	}
	if left, ok := p.deadline(); ok && left <= 0 {
		return batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline"
	}
	if !isIndexed(p.job) || !isPerIndex(p.job) {
		return "", ""
	}
	lost := p.lost.count()
	switch {
	case spec.MaxFailedIndexes != nil && lost > int(*spec.MaxFailedIndexes):
		return batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes"
	case lost > 0 && lost+p.done.count() >= int(*spec.Completions):
		return batchv1.JobReasonFailedIndexes, "Job has failed indexes"
	}
	return "", ""
}

// deadline is how long the Job may still run, if it has a limit and runs.
func (p *planner) deadline() (left time.Duration, ok bool) {
	limit := p.job.Spec.ActiveDeadlineSeconds
	if limit == nil || suspended(p.job) || p.status.StartTime == nil {
		return 0, false
	}
	return p.status.StartTime.Add(time.Duration(*limit) * time.Second).Sub(p.now), true
}

// restartsTooOften counts restarts inside pods, where containers are restarted in place.
func (p *planner) restartsTooOften() bool {
	if p.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	restarts := int32(0)
	for _, pod := range p.pods {
		if pod.Status.Phase != corev1.PodRunning && pod.Status.Phase != corev1.PodPending {
			continue
		}
		for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			restarts += c.RestartCount
		}
	}
	return restarts > 0 && restarts >= *p.job.Spec.BackoffLimit
}

// ending says that the status tells how the Job is to end. Only then are its
// pods stopped: a pod that was told to go would otherwise be taken for a failure
// by whoever finds it after a crash.
func (p *planner) ending() bool { return p.finish != nil && met(p.job, p.finish.Type) != nil }

// enough says that nothing runs any more and all completions are there; without
// a number of them one success is enough.
func (p *planner) enough() bool {
	if p.running > 0 {
		return false
	}
	if p.job.Spec.Completions == nil {
		return p.succeeded > 0
	}
	return p.succeeded >= *p.job.Spec.Completions
}

// conclude writes the end into the status: first that it is to end, and in a
// later step, when all pods have ended and are counted, that it has.
func (p *planner) conclude() {
	if p.finish == nil {
		return
	}
	if !p.ending() {
		setCondition(p.status, p.finish)
		p.plan.again = true
		return
	}
	u := p.status.UncountedTerminatedPods
	if p.going > 0 || p.running > 0 || len(u.Succeeded)+len(u.Failed) > 0 || len(p.plan.release) > 0 || p.plan.again {
		return
	}
	last := newCondition(batchv1.JobFailed, p.finish.Reason, p.finish.Message, p.now)
	if p.finish.Type == batchv1.JobSuccessCriteriaMet {
		last.Type = batchv1.JobComplete
		p.status.CompletionTime = &metav1.Time{Time: p.now}
	}
	setCondition(p.status, last)
	p.tellEnd(last)
}

func (p *planner) tellEnd(last *batchv1.JobCondition) {
	if last.Type == batchv1.JobFailed {
		p.tell(corev1.EventTypeWarning, last.Reason, last.Message)
		return
	}
	if p.job.Spec.Completions != nil && p.status.Succeeded > *p.job.Spec.Completions {
		p.tell(corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached")
	}
	p.tell(corev1.EventTypeNormal, "Completed", "Job completed")
}

func (p *planner) tell(kind, reason, message string) {
	p.plan.events = append(p.plan.events, event{kind, reason, message})
}
