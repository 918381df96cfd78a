package cronjob

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"pgregory.net/rapid"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
	"bramble.dev/server/controllers/job"
)

func TestMain(m *testing.M) {
	flag.Parse()
	klog.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

// world is a stand-in API with one CronJob and its controller, which may stop at
// any write.
type world struct {
	t      *rapid.T
	api    *cachetest.API
	client kubernetes.Interface // of the test; it never fails
	server *cachetest.Process

	mu       sync.Mutex
	made     map[string]bool
	problems []string
}

func newWorld(t *rapid.T, c *batchv1.CronJob) *world {
	w := &world{t: t, api: cachetest.New(), made: map[string]bool{}}
	w.client = w.api.Client()
	w.api.Wrote = w.check
	if _, err := w.client.BatchV1().CronJobs("default").Create(context.Background(), c, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.server = w.api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
		return New(Inputs{Client: client, Events: &record.FakeRecorder{}, CronJobs: set.CronJobs(), Jobs: set.Jobs(), Log: slog.New(slog.DiscardHandler)})
	})
	return w
}

func (w *world) cron() *batchv1.CronJob {
	return cachetest.All[batchv1.CronJob](w.api, "batch", "cronjobs")[0]
}

// running are the Jobs that have not ended.
func (w *world) running() []*batchv1.Job {
	out := slices.DeleteFunc(cachetest.All[batchv1.Job](w.api, "batch", "jobs"), func(j *batchv1.Job) bool { return job.Finished(j) != nil })
	slices.SortFunc(out, func(a, b *batchv1.Job) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return out
}

func (w *world) check(verb string, gr schema.GroupResource, _ string, object runtime.Object) {
	j, ok := object.(*batchv1.Job)
	if !ok || verb != "create" {
		return
	}
	running := len(w.running())
	policy := w.cron().Spec.ConcurrencyPolicy
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.made[j.Name] {
		w.problems = append(w.problems, fmt.Sprintf("%s is made a second time", j.Name))
	}
	w.made[j.Name] = true
	if policy != batchv1.AllowConcurrent && running > 1 {
		w.problems = append(w.problems, fmt.Sprintf("%d run at once with the policy %s", running, policy))
	}
}

func (w *world) finish(j *batchv1.Job, how batchv1.JobConditionType) {
	j.Status.Conditions = []batchv1.JobCondition{{Type: how, Status: corev1.ConditionTrue}}
	j.Status.CompletionTime = &metav1.Time{Time: time.Now()}
	_, _ = w.client.BatchV1().Jobs("default").UpdateStatus(context.Background(), j, metav1.UpdateOptions{})
}

func (w *world) suspend(yes bool) {
	for {
		c := w.cron()
		c.Spec.Suspend = &yes
		if _, err := w.client.BatchV1().CronJobs("default").Update(context.Background(), c, metav1.UpdateOptions{}); err == nil {
			return
		}
	}
}

func (w *world) fine() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.problems) > 0 {
		w.t.Fatalf("%v", w.problems)
	}
}

// Time goes by, Jobs end, the server stops at any write and comes back: no time
// is served twice, the policy holds, and the status tells what runs.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cachetest.InBubble(t, rt, model)
	})
}

func model(t *rapid.T) {
	policy := rapid.SampledFrom([]batchv1.ConcurrencyPolicy{batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent}).Draw(t, "policy")
	w := newWorld(t, &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "cron", Namespace: "default"},
		Spec: batchv1.CronJobSpec{
			Schedule: rapid.SampledFrom([]string{"* * * * *", "*/3 * * * *", "@every 2m"}).Draw(t, "schedule"), ConcurrencyPolicy: policy,
			SuccessfulJobsHistoryLimit: p(int32(2)), FailedJobsHistoryLimit: p(int32(1)),
		},
	})
	defer w.server.Stop()
	end := func(how batchv1.JobConditionType) func(*rapid.T) {
		return func(t *rapid.T) {
			if all := w.running(); len(all) > 0 {
				w.finish(all[rapid.IntRange(0, len(all)-1).Draw(t, "job")], how)
			}
		}
	}
	steps := map[string]func(*rapid.T){
		"wait":     func(t *rapid.T) { time.Sleep(time.Duration(rapid.IntRange(1, 400).Draw(t, "seconds")) * time.Second) },
		"complete": end(batchv1.JobComplete),
		"fail":     end(batchv1.JobFailed),
		"crash":    func(t *rapid.T) { w.server.CrashAfter(rapid.Int64Range(0, 4).Draw(t, "writes")) },
		"restart":  func(*rapid.T) { w.server.Restart() },
		"suspend":  func(*rapid.T) { w.suspend(w.cron().Spec.Suspend == nil || !*w.cron().Spec.Suspend) },
	}
	names := slices.Sorted(maps.Keys(steps))
	for range rapid.IntRange(1, 20).Draw(t, "steps") {
		steps[rapid.SampledFrom(names).Draw(t, "step")](t)
		synctest.Wait()
		w.fine()
	}
	w.server.Restart()
	w.suspend(false)
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	if policy != batchv1.ForbidConcurrent && len(w.running()) == 0 {
		t.Fatal("nothing runs though it is time")
	}
	w.suspend(true)
	time.Sleep(5 * time.Minute)
	synctest.Wait()
	listed := map[string]bool{}
	for _, ref := range w.cron().Status.Active {
		listed[ref.Name] = true
	}
	for _, j := range w.running() {
		if !listed[j.Name] {
			t.Fatalf("%s runs and is not listed", j.Name)
		}
	}
	if len(listed) != len(w.running()) {
		t.Fatalf("%d are listed, %d run", len(listed), len(w.running()))
	}
	for _, j := range w.running() {
		w.finish(j, batchv1.JobComplete)
	}
	time.Sleep(5 * time.Minute)
	synctest.Wait()
	w.fine()
	if n := len(cachetest.All[batchv1.Job](w.api, "batch", "jobs")); n > 3 || len(w.cron().Status.Active) != 0 {
		t.Fatalf("%d Jobs are kept of 2 and 1, %d are listed", n, len(w.cron().Status.Active))
	}
	before := w.server.Writes()
	time.Sleep(time.Hour)
	synctest.Wait()
	if n := w.server.Writes() - before; n != 0 {
		t.Fatalf("%d writes though nothing is due", n)
	}
}
