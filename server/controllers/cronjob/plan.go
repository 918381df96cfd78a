package cronjob

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/job"
)

// observed is what a plan is made of; nothing of it is changed.
type observed struct {
	cron *batchv1.CronJob
	jobs []*batchv1.Job // that the CronJob controls
	gone func(corev1.ObjectReference) bool
	now  time.Time
}

// plan is one step, in the order in which it is done.
type plan struct {
	events  []event
	history []*batchv1.Job // finished ones beyond the limits, to delete
	replace []*batchv1.Job // active ones, to delete before another is made
	create  *batchv1.Job
	at      time.Time // the time that create is for
	status  batchv1.CronJobStatus
	wake    time.Duration // zero for never
}

type event struct{ kind, reason, message string }

func (p *plan) tell(kind, reason, format string, args ...any) {
	p.events = append(p.events, event{kind, reason, fmt.Sprintf(format, args...)})
}

// decide makes the plan.
func decide(o observed) plan {
	p := plan{status: *o.cron.Status.DeepCopy()}
	p.history = append(
		oldest(o.jobs, batchv1.JobComplete, o.cron.Spec.SuccessfulJobsHistoryLimit),
		oldest(o.jobs, batchv1.JobFailed, o.cron.Spec.FailedJobsHistoryLimit)...)
	p.follow(o)
	if o.cron.DeletionTimestamp == nil {
		p.schedule(o)
	}
	return p
}

// oldest gives the oldest Jobs that ended in one way, beyond so many.
func oldest(all []*batchv1.Job, end batchv1.JobConditionType, keep *int32) []*batchv1.Job {
	if keep == nil {
		return nil
	}
	var ended []*batchv1.Job
	for _, j := range all {
		if c := job.Finished(j); c != nil && c.Type == end && j.DeletionTimestamp == nil {
			ended = append(ended, j)
		}
	}
	slices.SortFunc(ended, func(a, b *batchv1.Job) int {
		return cmp.Or(compareStarts(a.Status.StartTime, b.Status.StartTime), cmp.Compare(a.Name, b.Name))
	})
	return ended[:max(len(ended)-int(*keep), 0)]
}

// compareStarts takes a Job that never started for the youngest.
func compareStarts(a, b *metav1.Time) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return a.Compare(b.Time)
}

// follow brings the list of active Jobs and the last success up to date.
func (p *plan) follow(o observed) {
	known := map[types.UID]bool{}
	slices.SortFunc(o.jobs, func(a, b *batchv1.Job) int { return cmp.Compare(a.Name, b.Name) })
	for _, j := range o.jobs {
		known[j.UID] = true
		end := job.Finished(j)
		at, ours := madeFor(o.cron, j)
		switch {
		case end == nil && !p.lists(j.UID) && ours:
			// Made by a step that did not come to write the status.
			p.list(j, at)
		case end == nil && !p.lists(j.UID):
			p.tell(corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", j.Name)
		case end != nil && p.lists(j.UID):
			p.unlist(j.UID)
			p.tell(corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", j.Name, end.Type)
		}
		if end != nil && end.Type == batchv1.JobComplete {
			p.noteSuccess(j.Status.CompletionTime)
		}
	}
	for _, ref := range slices.Clone(p.status.Active) {
		if !known[ref.UID] && o.gone(ref) {
			p.unlist(ref.UID)
			p.tell(corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", ref.Name)
		}
	}
}

func (p *plan) noteSuccess(at *metav1.Time) {
	if last := p.status.LastSuccessfulTime; at != nil && (last == nil || at.After(last.Time)) {
		p.status.LastSuccessfulTime = at
	}
}

func (p *plan) lists(uid types.UID) bool {
	return slices.ContainsFunc(p.status.Active, func(r corev1.ObjectReference) bool { return r.UID == uid })
}

func (p *plan) list(j *batchv1.Job, at time.Time) {
	p.status.Active = append(p.status.Active, reference(j))
	if last := p.status.LastScheduleTime; last == nil || at.After(last.Time) {
		p.status.LastScheduleTime = &metav1.Time{Time: at}
	}
}

// madeFor is the time that a Job was made for by this controller.
func madeFor(c *batchv1.CronJob, j *batchv1.Job) (at time.Time, ok bool) {
	at, err := time.Parse(time.RFC3339, j.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
	return at, err == nil && j.Name == jobName(c, at)
}

func (p *plan) unlist(uid types.UID) {
	p.status.Active = slices.DeleteFunc(p.status.Active, func(r corev1.ObjectReference) bool { return r.UID == uid })
}

// schedule plans the Job that is due, and when to look again.
func (p *plan) schedule(o observed) {
	c := o.cron
	zone, err := location(c)
	if err != nil {
		p.tell(corev1.EventTypeWarning, "UnknownTimeZone", "invalid timeZone: %q: %s", *c.Spec.TimeZone, err)
		return
	}
	if c.Spec.Suspend != nil && *c.Spec.Suspend {
		return
	}
	if hasZone(c) {
		p.tell(corev1.EventTypeWarning, "UnsupportedSchedule", "CRON_TZ or TZ used in schedule %q is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", c.Spec.Schedule)
	}
	s, err := parse(c)
	if err != nil {
		p.tell(corev1.EventTypeWarning, "UnparseableSchedule", "unparseable schedule: %q : %s", c.Spec.Schedule, err)
		return
	}
	c = c.DeepCopy()
	c.Status = p.status
	from := since(c)
	var tooLate time.Time
	if d := c.Spec.StartingDeadlineSeconds; d != nil {
		tooLate = o.now.Add(-time.Duration(*d) * time.Second)
		if tooLate.After(from) {
			from = tooLate
		}
	}
	at, missed, err := due(s, from, o.now)
	if err != nil {
		p.tell(corev1.EventTypeWarning, "InvalidSchedule", "invalid schedule: %s : %s", c.Spec.Schedule, err)
		return
	}
	p.wake = wake(c, s, o.now)
	if at.IsZero() {
		return
	}
	if missed > manyMissed {
		p.tell(corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if at.Before(tooLate) {
		p.tell(corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", at.UTC().Format(time.RFC1123Z))
		return
	}
	if p.mayStart(o, at) {
		p.at, p.create = at, newJob(c, at, zone)
	}
}

// mayStart applies the concurrency policy.
func (p *plan) mayStart(o observed, at time.Time) bool {
	name := jobName(o.cron, at)
	if slices.ContainsFunc(p.status.Active, func(r corev1.ObjectReference) bool { return r.Name == name }) ||
		p.status.LastScheduleTime.Equal(&metav1.Time{Time: at}) {
		return false // it was done
	}
	switch {
	case len(p.status.Active) == 0:
	case o.cron.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent:
		p.tell(corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return false
	case o.cron.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent:
		for _, j := range o.jobs {
			if p.lists(j.UID) {
				p.replace = append(p.replace, j)
			}
		}
		for _, j := range p.replace {
			p.unlist(j.UID)
		}
	}
	return true
}

func jobName(c *batchv1.CronJob, at time.Time) string {
	return fmt.Sprintf("%s-%d", c.Name, at.Unix()/60)
}

func newJob(c *batchv1.CronJob, at time.Time, zone *time.Location) *batchv1.Job {
	annotations := map[string]string{}
	maps.Copy(annotations, c.Spec.JobTemplate.Annotations)
	annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.In(zone).Format(time.RFC3339)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Name: jobName(c, at), Labels: maps.Clone(c.Spec.JobTemplate.Labels), Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(c, kind)},
		},
		Spec: *c.Spec.JobTemplate.Spec.DeepCopy(),
	}
}
