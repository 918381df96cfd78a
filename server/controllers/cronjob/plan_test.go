package cronjob

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func p[T any](v T) *T { return &v }

// hourly makes a CronJob of noon, with changes.
func hourly(change ...func(*batchv1.CronJob)) *batchv1.CronJob {
	c := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "cron", Namespace: "default", UID: "cron", CreationTimestamp: metav1.NewTime(start)},
		Spec: batchv1.CronJobSpec{
			Schedule: "0 * * * *", ConcurrencyPolicy: batchv1.AllowConcurrent,
			SuccessfulJobsHistoryLimit: p(int32(3)), FailedJobsHistoryLimit: p(int32(1)),
			JobTemplate: batchv1.JobTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}}},
		},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

// jobAt is the Job of an hour after noon; end is empty while it runs.
func jobAt(c *batchv1.CronJob, hour int, end batchv1.JobConditionType) *batchv1.Job {
	at := start.Add(time.Duration(hour) * time.Hour)
	j := newJob(c, at, time.UTC)
	j.Namespace, j.UID = "default", types.UID(fmt.Sprint("j", hour))
	j.Status.StartTime = &metav1.Time{Time: at}
	if end != "" {
		j.Status.Conditions = []batchv1.JobCondition{{Type: end, Status: corev1.ConditionTrue}}
		if end == batchv1.JobComplete {
			j.Status.CompletionTime = &metav1.Time{Time: at.Add(time.Minute)}
		}
	}
	return j
}

// active lists Jobs as running; the last one was the last to be made.
func active(c *batchv1.CronJob, jobs ...*batchv1.Job) *batchv1.CronJob {
	for _, j := range jobs {
		c.Status.Active = append(c.Status.Active, reference(j))
		c.Status.LastScheduleTime = j.Status.StartTime
	}
	return c
}

func summary(q plan) string {
	var out []string
	names := func(what string, jobs []*batchv1.Job) {
		for _, j := range jobs {
			out = append(out, what+" "+string(j.UID))
		}
	}
	names("delete", q.history)
	names("replace", q.replace)
	if q.create != nil {
		out = append(out, fmt.Sprintf("create %s for %s", q.create.Name, q.at.UTC().Format("02 15:04")))
	}
	for _, ref := range q.status.Active {
		out = append(out, "active "+string(ref.UID))
	}
	if t := q.status.LastSuccessfulTime; t != nil {
		out = append(out, "success "+t.UTC().Format("15:04"))
	}
	for _, e := range q.events {
		out = append(out, fmt.Sprintf("event %s %s: %s", e.kind, e.reason, e.message))
	}
	if q.wake > 0 {
		out = append(out, "wake "+q.wake.String())
	}
	return strings.Join(out, "; ")
}

func TestPlan(t *testing.T) {
	policy := func(k batchv1.ConcurrencyPolicy) func(*batchv1.CronJob) {
		return func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = k }
	}
	schedule := func(s string) func(*batchv1.CronJob) { return func(c *batchv1.CronJob) { c.Spec.Schedule = s } }
	zone := func(z string) func(*batchv1.CronJob) { return func(c *batchv1.CronJob) { c.Spec.TimeZone = &z } }
	deadline := func(d int64) func(*batchv1.CronJob) {
		return func(c *batchv1.CronJob) { c.Spec.StartingDeadlineSeconds = &d }
	}
	manual := jobAt(hourly(), 1, "")
	manual.Name = "by-hand"
	last := func(hour int) func(*batchv1.CronJob) {
		return func(c *batchv1.CronJob) {
			c.Status.LastScheduleTime = &metav1.Time{Time: start.Add(time.Duration(hour) * time.Hour)}
		}
	}
	for _, test := range []struct {
		name  string
		cron  *batchv1.CronJob
		jobs  []*batchv1.Job
		after time.Duration // since noon
		want  string
	}{
		{"nothing is due", hourly(), nil, 10 * time.Minute, "wake 50m0.1s"},
		{"one is due", hourly(), nil, time.Hour, "create cron-29454540 for 01 13:00; wake 1h0m0.1s"},
		{"it was made", active(hourly(), jobAt(hourly(), 1, "")), []*batchv1.Job{jobAt(hourly(), 1, "")}, time.Hour + time.Minute, "active j1; wake 59m0.1s"},
		{"it was made, and nobody wrote it down", hourly(), []*batchv1.Job{jobAt(hourly(), 1, "")}, time.Hour + time.Minute, "active j1; wake 59m0.1s"},
		{"it is done", active(hourly(), jobAt(hourly(), 1, "")), []*batchv1.Job{jobAt(hourly(), 1, batchv1.JobComplete)}, time.Hour + time.Minute,
			"success 13:01; event Normal SawCompletedJob: Saw completed job: cron-29454540, condition: Complete; wake 59m0.1s"},
		{"it went missing", active(hourly(), jobAt(hourly(), 1, "")), nil, time.Hour + time.Minute,
			"event Normal MissingJob: Active job went missing: cron-29454540; wake 59m0.1s"},
		{"somebody else's", hourly(), []*batchv1.Job{manual}, time.Minute,
			"event Warning UnexpectedJob: Saw a job that the controller did not create or forgot: by-hand; wake 59m0.1s"},
		{"several were missed", hourly(), nil, 5*time.Hour + time.Minute, "create cron-29454780 for 01 17:00; wake 59m0.1s"},
		{"many were missed", hourly(), nil, 101 * time.Hour, "create cron-29460540 for 05 17:00; event Warning TooManyMissedTimes: too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew; wake 1h0m0.1s"},
		{"it is too late", hourly(deadline(30)), nil, time.Hour + time.Minute, "wake 59m0.1s"},
		{"it is not too late", hourly(deadline(90)), nil, time.Hour + time.Minute, "create cron-29454540 for 01 13:00; wake 59m0.1s"},
		{"suspended", hourly(func(c *batchv1.CronJob) { c.Spec.Suspend = p(true) }), nil, time.Hour, ""},
		{"going", hourly(func(c *batchv1.CronJob) { c.DeletionTimestamp = &metav1.Time{Time: start} }), nil, time.Hour, ""},
		{"beside another", active(hourly(), jobAt(hourly(), 1, "")), []*batchv1.Job{jobAt(hourly(), 1, "")}, 2 * time.Hour, "create cron-29454600 for 01 14:00; active j1; wake 1h0m0.1s"},
		{"not beside another", active(hourly(policy(batchv1.ForbidConcurrent)), jobAt(hourly(), 1, "")), []*batchv1.Job{jobAt(hourly(), 1, "")}, 2 * time.Hour,
			"active j1; event Normal JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid; wake 1h0m0.1s"},
		{"nor beside one that nobody wrote down", hourly(policy(batchv1.ForbidConcurrent)), []*batchv1.Job{jobAt(hourly(), 1, "")}, 2 * time.Hour,
			"active j1; event Normal JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid; wake 1h0m0.1s"},
		{"in place of another", active(hourly(policy(batchv1.ReplaceConcurrent)), jobAt(hourly(), 1, "")), []*batchv1.Job{jobAt(hourly(), 1, "")}, 2 * time.Hour,
			"replace j1; create cron-29454600 for 01 14:00; wake 1h0m0.1s"},
		{"history", hourly(last(6)), []*batchv1.Job{
			jobAt(hourly(), 1, batchv1.JobComplete), jobAt(hourly(), 4, batchv1.JobComplete), jobAt(hourly(), 3, batchv1.JobComplete), jobAt(hourly(), 2, batchv1.JobComplete),
			jobAt(hourly(), 6, batchv1.JobFailed), jobAt(hourly(), 5, batchv1.JobFailed),
		}, 6*time.Hour + time.Minute, "delete j1; delete j5; success 16:01; wake 59m0.1s"},
		{"a time zone", hourly(schedule("30 14 * * *"), zone("Europe/Paris")), nil, 100 * time.Minute, "create cron-29454570 for 01 13:30; wake 23h50m0.1s"},
		{"a time zone that is none", hourly(zone("Mars/Base")), nil, time.Hour, `event Warning UnknownTimeZone: invalid timeZone: "Mars/Base": unknown time zone Mars/Base`},
		{"a schedule that is none", hourly(schedule("often")), nil, time.Hour, `event Warning UnparseableSchedule: unparseable schedule: "often" : expected exactly 5 fields, found 1: [often]`},
		{"a schedule without a time", hourly(schedule("0 0 31 2 *")), nil, time.Hour, "event Warning InvalidSchedule: invalid schedule: 0 0 31 2 * : time difference between two schedules is less than 1 second"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := decide(observed{cron: test.cron, jobs: test.jobs, now: start.Add(test.after), gone: func(corev1.ObjectReference) bool { return true }})
			if s := summary(got); s != test.want {
				t.Errorf("got  %s\nwant %s", s, test.want)
			}
		})
	}
}

func TestNewJob(t *testing.T) {
	c := hourly(func(c *batchv1.CronJob) { c.Spec.TimeZone = p("Europe/Paris") })
	zone, err := location(c)
	if err != nil {
		t.Fatal(err)
	}
	j := newJob(c, start, zone)
	if j.Labels["a"] != "b" || j.Annotations["c"] != "d" || j.Annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"] != "2026-01-01T13:00:00+01:00" || !metav1.IsControlledBy(j, c) {
		t.Errorf("made %+v", j.ObjectMeta)
	}
}
