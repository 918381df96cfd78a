package job

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// running makes a Job that has begun, with changes.
func running(change ...func(*batchv1.Job)) *batchv1.Job {
	j := testJob(false, p(int32(3)), 2)
	j.UID = "job"
	j.Status.StartTime = &metav1.Time{Time: start}
	for _, f := range change {
		f(j)
	}
	return j
}

func indexed(j *batchv1.Job) { j.Spec.CompletionMode = p(batchv1.IndexedCompletion) }

// testPod reads a pod: its phase (Pending, Running, Failed, Succeeded), then words: deleted, untracked, ready, =INDEX,
// exit=CODE, failures=N, restarts=N, disrupted, ago=DURATION.
func testPod(words string) *corev1.Pod {
	f := strings.Fields(words)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Finalizers: []string{batchv1.JobTrackingFinalizer}, Annotations: map[string]string{},
			CreationTimestamp: metav1.NewTime(start), Labels: map[string]string{batchv1.JobNameLabel: "work"},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPhase(f[0])},
	}
	c := corev1.ContainerStatus{Name: "c"}
	at := start.Add(time.Hour)
	for _, w := range f[1:] {
		key, value, _ := strings.Cut(w, "=")
		var n int32
		_, _ = fmt.Sscan(value, &n)
		switch key {
		case "deleted":
			pod.DeletionTimestamp = &metav1.Time{Time: start.Add(time.Hour)}
		case "untracked":
			pod.Finalizers = nil
		case "ready":
			pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
		case "disrupted":
			pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue})
		case "":
			pod.Annotations[batchv1.JobCompletionIndexAnnotation] = value
		case "failures":
			pod.Annotations[batchv1.JobIndexFailureCountAnnotation] = value
		case "restarts":
			c.RestartCount = n
		case "exit":
			c.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: n}
		case "ago":
			d, err := time.ParseDuration(value)
			if err != nil {
				panic(err)
			}
			at = at.Add(-d)
		default:
			panic(w)
		}
	}
	if c.State.Terminated == nil && (f[0] == "Failed" || f[0] == "Succeeded") {
		c.State.Terminated = &corev1.ContainerStateTerminated{}
	}
	if c.State.Terminated != nil {
		c.State.Terminated.FinishedAt = metav1.NewTime(at)
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{c}
	return pod
}

func see(j *batchv1.Job, words ...string) observed {
	o := observed{job: j, now: start.Add(time.Hour)}
	for i, w := range words {
		pod := testPod(w)
		pod.Name = fmt.Sprint("p", i)
		pod.UID = types.UID(pod.Name)
		o.pods = append(o.pods, pod)
	}
	return o
}

// summary prints a plan.
func summary(q plan) string {
	var out []string
	for what, some := range map[string][]*corev1.Pod{"stop": q.stop, "drop": q.drop, "release": q.release} {
		var names []string
		for _, pod := range some {
			names = append(names, pod.Name)
		}
		if slices.Sort(names); len(names) > 0 {
			out = append(out, what+" "+strings.Join(names, " "))
		}
	}
	if len(q.create) > 0 {
		var made []string
		for _, n := range q.create {
			if n.index == noIndex {
				made = append(made, "any")
			} else {
				made = append(made, fmt.Sprint(n.index))
			}
		}
		out = append(out, "create "+strings.Join(made, " "))
	}
	slices.Sort(out)
	s := q.status
	out = append(out, fmt.Sprintf("%d/%d/%d active", s.Active, *s.Ready, *s.Terminating))
	if u := s.UncountedTerminatedPods; len(u.Succeeded)+len(u.Failed) > 0 {
		out = append(out, fmt.Sprintf("uncounted %v %v", u.Succeeded, u.Failed))
	}
	if s.Succeeded+s.Failed > 0 {
		out = append(out, fmt.Sprintf("%d ok %d bad", s.Succeeded, s.Failed))
	}
	if s.CompletedIndexes != "" || s.FailedIndexes != nil {
		out = append(out, fmt.Sprintf("indexes %q", s.CompletedIndexes))
		if s.FailedIndexes != nil {
			out = append(out, fmt.Sprintf("lost %q", *s.FailedIndexes))
		}
	}
	for _, c := range s.Conditions {
		out = append(out, fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message))
	}
	for _, e := range q.events {
		out = append(out, fmt.Sprintf("event %s %s: %s", e.kind, e.reason, e.message))
	}
	if q.wake > 0 {
		out = append(out, "wake "+q.wake.String())
	}
	return strings.Join(out, "; ")
}

func with1(t batchv1.JobConditionType, reason, message string) func(*batchv1.Job) {
	return func(j *batchv1.Job) {
		j.Status.Conditions = append(j.Status.Conditions, *newCondition(t, reason, message, start))
	}
}

func rules(rules ...batchv1.PodFailurePolicyRule) func(*batchv1.Job) {
	return func(j *batchv1.Job) { j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: rules} }
}

func onExit(action batchv1.PodFailurePolicyAction, codes ...int32) batchv1.PodFailurePolicyRule {
	return batchv1.PodFailurePolicyRule{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: codes}}
}

func TestPlan(t *testing.T) {
	uncounted := func(j *batchv1.Job) {
		j.Status.Succeeded, j.Status.Failed = 1, 2
		j.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Succeeded: []types.UID{"p0", "gone"}, Failed: []types.UID{"p1"}}
	}
	perIndex := func(limit int32) func(*batchv1.Job) {
		return func(j *batchv1.Job) { indexed(j); j.Spec.BackoffLimitPerIndex = &limit }
	}
	disrupted := batchv1.PodFailurePolicyRule{Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}}
	success := func(indexes string, count *int32) func(*batchv1.Job) {
		return func(j *batchv1.Job) {
			rule := batchv1.SuccessPolicyRule{SucceededCount: count}
			if indexes != "" {
				rule.SucceededIndexes = &indexes
			}
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{rule}}
		}
	}
	for _, test := range []struct {
		name string
		o    observed
		want string
	}{
		{"a new Job", see(running()), "create any any; 2/0/0 active"},
		{"an Indexed one", see(running(indexed)), "create 0 1; 2/0/0 active"},
		{"it runs", see(running(), "Running ready", "Running"), "2/1/0 active"},
		{"one has succeeded", see(running(), "Succeeded", "Running ready"), "create any; release p0; 2/1/0 active; uncounted [p0] []"},
		{"no more than are missing", see(running(func(j *batchv1.Job) { j.Status.Succeeded = 2 }), "Running"), "1/0/0 active; 2 ok 0 bad"},
		{"finalizers are gone", see(running(uncounted), "Succeeded untracked", "Failed", "Running", "Running"),
			"drop p2 p3; release p1; 0/0/2 active; uncounted [] [p1]; 3 ok 2 bad; SuccessCriteriaMet=True CompletionsReached: Reached expected number of succeeded pods"},
		{"all have succeeded", see(running(func(j *batchv1.Job) { j.Status.Succeeded = 2 }), "Succeeded"),
			"release p0; 0/0/0 active; uncounted [p0] []; 2 ok 0 bad; SuccessCriteriaMet=True CompletionsReached: Reached expected number of succeeded pods"},
		{"all are counted", see(running(func(j *batchv1.Job) { j.Status.Succeeded = 3 }, with1(batchv1.JobSuccessCriteriaMet, "CompletionsReached", "m")), "Succeeded untracked"),
			"0/0/0 active; 3 ok 0 bad; SuccessCriteriaMet=True CompletionsReached: m; Complete=True CompletionsReached: m; event Normal Completed: Job completed"},
		{"one is still going", see(running(func(j *batchv1.Job) { j.Status.Succeeded = 3 }, with1(batchv1.JobSuccessCriteriaMet, "CompletionsReached", "m")), "Running deleted untracked"),
			"0/0/1 active; 3 ok 0 bad; SuccessCriteriaMet=True CompletionsReached: m"},
		{"one success is enough", see(running(func(j *batchv1.Job) { j.Spec.Completions = nil }), "Succeeded", "Running"), "release p0; 1/0/0 active; uncounted [p0] []"},
		{"and then nobody begins", see(running(func(j *batchv1.Job) { j.Spec.Completions, j.Status.Succeeded = nil, 1 }), "Running deleted"),
			"release p0; 0/0/1 active; uncounted [] [p0]; 1 ok 0 bad; SuccessCriteriaMet=True CompletionsReached: Reached expected number of succeeded pods"},
		{"failures are waited for", see(running(), "Failed ago=4s", "Running"), "release p0; 1/0/0 active; uncounted [] [p0]; wake 6s"},
		{"until it is time", see(running(), "Failed ago=10s", "Running"), "create any; release p0; 2/0/0 active; uncounted [] [p0]"},
		{"a success makes up for failures", see(running(), "Failed ago=4s", "Succeeded ago=2s"), "create any any; release p0 p1; 2/0/0 active; uncounted [p1] [p0]"},
		{"a deleted pod is replaced", see(running(), "Running deleted", "Running"), "release p0; 1/0/1 active; uncounted [] [p0]; wake 10s"},
		{"or only when it has ended", see(running(func(j *batchv1.Job) { j.Spec.PodReplacementPolicy = p(batchv1.Failed) }), "Running deleted", "Running"), "1/0/1 active"},
		{"too many", see(running(), "Running ready", "Pending", "Running ready"), "drop p1; 2/2/1 active"},
		{"given up by an earlier step", see(running(), "Running ready", "Running untracked"), "drop p1; 1/1/1 active"},
		{"an index twice, one too high and none", see(running(indexed), "Running ready =0", "Pending =0", "Running =7", "Running"), "drop p1 p2 p3; 1/1/3 active"},
		{"indexes that are done", see(running(indexed, func(j *batchv1.Job) { j.Status.CompletedIndexes, j.Status.Succeeded = "1", 1 }), "Succeeded =0"),
			`create 2; release p0; 1/0/0 active; 2 ok 0 bad; indexes "0,1"`},
		{"suspended", see(running(func(j *batchv1.Job) { j.Spec.Suspend = p(true) }), "Running ready", "Failed"),
			"drop p0; release p1; 0/0/1 active; uncounted [] [p1]; Suspended=True JobSuspended: Job suspended; event Normal Suspended: Job suspended"},
		{"and resumed", see(running(func(j *batchv1.Job) { j.Status.StartTime = nil }, with1(batchv1.JobSuspended, "JobSuspended", "Job suspended"))),
			"create any any; 2/0/0 active; Suspended=False JobResumed: Job resumed; event Normal Resumed: Job resumed"},
		{"too many failures", see(running(func(j *batchv1.Job) { j.Spec.BackoffLimit = p(int32(0)) }), "Failed", "Running"),
			"release p0; 1/0/0 active; uncounted [] [p0]; FailureTarget=True BackoffLimitExceeded: Job has reached the specified backoff limit"},
		{"then the others are stopped", see(running(func(j *batchv1.Job) { j.Status.Failed = 1 }, with1(batchv1.JobFailureTarget, "BackoffLimitExceeded", "m")), "Running ready"),
			"release p0; stop p0; 0/0/1 active; uncounted [] [p0]; 0 ok 1 bad; FailureTarget=True BackoffLimitExceeded: m"},
		{"and it has failed", see(running(func(j *batchv1.Job) { j.Status.Failed = 2 }, with1(batchv1.JobFailureTarget, "BackoffLimitExceeded", "m"))),
			"0/0/0 active; 0 ok 2 bad; FailureTarget=True BackoffLimitExceeded: m; Failed=True BackoffLimitExceeded: m; event Warning BackoffLimitExceeded: m"},
		{"restarts in place", see(running(func(j *batchv1.Job) {
			j.Spec.BackoffLimit = p(int32(3))
			j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		}), "Running restarts=2", "Running restarts=1"),
			"2/0/0 active; FailureTarget=True BackoffLimitExceeded: Job has reached the specified backoff limit"},
		{"past its deadline", see(running(func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = p(int64(3600)) }), "Running"),
			"1/0/0 active; FailureTarget=True DeadlineExceeded: Job was active longer than specified deadline"},
		{"before its deadline", see(running(func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = p(int64(3660)) }), "Running", "Running"), "2/0/0 active; wake 1m0s"},
		{"an exit code fails the Job", see(running(rules(onExit(batchv1.PodFailurePolicyActionFailJob, 3))), "Failed exit=3"),
			"release p0; 0/0/0 active; uncounted [] [p0]; FailureTarget=True PodFailurePolicy: Container c for pod default/p0 failed with exit code 3 matching FailJob rule at index 0"},
		{"a disruption is ignored", see(running(rules(onExit(batchv1.PodFailurePolicyActionFailJob, 3), disrupted)), "Failed disrupted ago=1m"), "create any any; release p0; 2/0/0 active"},
		{"an index has failed too often", see(running(perIndex(1)), "Failed =0 failures=1", "Failed =1 ago=1m"),
			`create 1 2; release p0; 2/0/0 active; uncounted [] [p0]; indexes ""; lost "0"`},
		{"an index waits for its successor", see(running(perIndex(5)), "Failed =0 failures=1 ago=1s", "Running =1"), `1/0/0 active; indexes ""; lost ""; wake 19s`},
		{"an index fails by policy", see(running(perIndex(5), rules(onExit(batchv1.PodFailurePolicyActionFailIndex, 9))), "Failed =0 exit=9", "Running =1", "Running =2"),
			`release p0; 2/0/0 active; uncounted [] [p0]; indexes ""; lost "0"`},
		{"failed indexes fail the Job at its end", see(running(perIndex(0), func(j *batchv1.Job) { j.Status.CompletedIndexes = "1,2" }), "Failed =0"),
			`release p0; 0/0/0 active; uncounted [] [p0]; 2 ok 0 bad; indexes "1,2"; lost "0"; FailureTarget=True FailedIndexes: Job has failed indexes`},
		{"or when there are too many", see(running(perIndex(0), func(j *batchv1.Job) { j.Spec.MaxFailedIndexes = p(int32(0)) }), "Failed =0"),
			`release p0; 0/0/0 active; uncounted [] [p0]; indexes ""; lost "0"; FailureTarget=True MaxFailedIndexesExceeded: Job has exceeded the specified maximal number of failed indexes`},
		{"success by index", see(running(indexed, success("0,2", nil)), "Succeeded =0", "Succeeded =2", "Running =1"),
			`release p0 p1; 1/0/0 active; 2 ok 0 bad; indexes "0,2"; SuccessCriteriaMet=True SuccessPolicy: Matched rules at index 0`},
		{"success by count", see(running(indexed, success("0-2", p(int32(1)))), "Succeeded =2", "Running =1"),
			`release p0; 1/0/0 active; 1 ok 0 bad; indexes "2"; SuccessCriteriaMet=True SuccessPolicy: Matched rules at index 0`},
		{"then the others are no failures", see(running(indexed, func(j *batchv1.Job) { j.Status.CompletedIndexes = "0" }, with1(batchv1.JobSuccessCriteriaMet, "SuccessPolicy", "m")), "Running =1"),
			`release p0; stop p0; 0/0/1 active; 1 ok 0 bad; indexes "0"; SuccessCriteriaMet=True SuccessPolicy: m`},
		{"a Job that goes lets its pods go", see(running(func(j *batchv1.Job) { j.DeletionTimestamp = &metav1.Time{Time: start} }), "Running", "Succeeded"),
			"release p0 p1; 1/0/0 active; uncounted [p1] []"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := summary(decide(test.o)); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

// What is being counted is bounded, and the rest has its turn afterwards.
// What is given up is the work that was begun last.
func TestTheYoungestIsGivenUp(t *testing.T) {
	o := see(running(), "Running ready", "Running ready", "Running ready")
	for i, pod := range o.pods {
		pod.CreationTimestamp = metav1.NewTime(start.Add(time.Duration(i) * time.Second))
	}
	if got := decide(o).drop; len(got) != 1 || got[0].Name != "p2" {
		t.Errorf("gives up %s", summary(plan{drop: got}))
	}
}

func TestCountsInPortions(t *testing.T) {
	words := slices.Repeat([]string{"Succeeded"}, 700)
	q := decide(see(running(func(j *batchv1.Job) { j.Spec.Completions = p(int32(1000)) }), words...))
	if len(q.release) != mostUncounted || len(q.status.UncountedTerminatedPods.Succeeded) != mostUncounted || !q.again {
		t.Errorf("%d are let go, %d are being counted", len(q.release), len(q.status.UncountedTerminatedPods.Succeeded))
	}
}

func TestBuild(t *testing.T) {
	j := running(indexed)
	j.Spec.BackoffLimitPerIndex = p(int32(3))
	j.Name = strings.Repeat("x", 60)
	pod := build(j, newPod{index: 12, replaces: testPod("Failed failures=1")})
	if want := strings.Repeat("x", 54) + "-12-"; pod.GenerateName != want {
		t.Errorf("generates names of %s, want %s", pod.GenerateName, want)
	}
	if !isTracked(pod) || indexOf(pod) != 12 || pod.Labels[batchv1.JobCompletionIndexAnnotation] != "12" || pod.Spec.Hostname != j.Name+"-12" {
		t.Errorf("made %+v", pod)
	}
	if n, _ := failuresOf(pod); n != 2 {
		t.Errorf("its index has failed %d times, want 2", n)
	}
	env := pod.Spec.Containers[0].Env
	if len(env) != 1 || env[0].Name != "JOB_COMPLETION_INDEX" || env[0].ValueFrom.FieldRef.FieldPath != "metadata.labels['batch.kubernetes.io/job-completion-index']" {
		t.Errorf("environment %+v", env)
	}
	if len(j.Spec.Template.Spec.Containers[0].Env)+len(j.Spec.Template.Annotations) != 0 {
		t.Error("the template was changed")
	}
}

func TestBackoff(t *testing.T) {
	b := backoff{}
	for i, want := range []time.Duration{10, 20, 40, 80, 160, 320, 600, 600} {
		b = b.after(nil, []*corev1.Pod{testPod("Failed")})
		if left := b.left(start.Add(time.Hour)); left != want*time.Second {
			t.Errorf("after %d failures %v, want %v", i+1, left, want*time.Second)
		}
	}
	if b = b.after([]*corev1.Pod{testPod("Succeeded ago=5s")}, []*corev1.Pod{testPod("Failed ago=9s"), testPod("Failed ago=1s")}); b.failures != 1 {
		t.Errorf("%d failures since the last success, want 1", b.failures)
	}
}
