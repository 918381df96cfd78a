package job

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
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"pgregory.net/rapid"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
	"bramble.dev/server/controllers/pods"
)

// Longer: go test -rapid.checks=2000 ./server/controllers/job
func TestMain(m *testing.M) {
	flag.Parse()
	klog.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

// world is a stand-in API with one Job, its controller, which may stop at any
// write, and what truly became of the pods.
type world struct {
	t      *rapid.T
	api    *cachetest.API
	client kubernetes.Interface // of the test; it never fails
	server *cachetest.Process

	mu                sync.Mutex
	most              int32 // that were ever allowed to run at once
	succeeded, failed map[types.UID]bool
	byIndex           map[int]int // successes
	problems          []string
}

func newWorld(t *rapid.T, job *batchv1.Job) *world {
	w := &world{t: t, api: cachetest.New(), most: *job.Spec.Parallelism, succeeded: map[types.UID]bool{}, failed: map[types.UID]bool{}, byIndex: map[int]int{}}
	w.client = w.api.Client()
	w.api.Wrote = w.check
	if _, err := w.client.BatchV1().Jobs("default").Create(context.Background(), job, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.server = w.api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
		return New(Inputs{Client: client, Events: &record.FakeRecorder{}, Jobs: set.Jobs(), Pods: set.Pods(), Log: slog.New(slog.DiscardHandler)})
	})
	return w
}

func (w *world) problem(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problems = append(w.problems, fmt.Sprintf(format, args...))
}

// check looks at every write.
func (w *world) check(verb string, _ schema.GroupResource, subresource string, object runtime.Object) {
	w.mu.Lock()
	most, succeeded, failed := w.most, len(w.succeeded), len(w.failed)
	w.mu.Unlock()
	switch o := object.(type) {
	case *corev1.Pod:
		if verb != "create" || subresource != "" {
			return
		}
		if n := int32(len(pods.Filter(w.pods(), pods.IsActive))); n > most {
			w.problem("%d pods are active, at most %d may be", n, most)
		}
		if !isTracked(o) {
			w.problem("pod %s was made without the finalizer", o.Name)
		}
	case *batchv1.Job:
		if u := o.Status.UncountedTerminatedPods; u != nil && !isIndexed(o) && int(o.Status.Succeeded)+len(u.Succeeded) > succeeded {
			w.problem("%d+%d successes are counted, there were %d", o.Status.Succeeded, len(u.Succeeded), succeeded)
		}
		if u := o.Status.UncountedTerminatedPods; u != nil && int(o.Status.Failed)+len(u.Failed) > failed {
			w.problem("%d+%d failures are counted, there were %d", o.Status.Failed, len(u.Failed), failed)
		}
		if Finished(o) != nil {
			for _, p := range w.pods() {
				if isTracked(p) {
					w.problem("the Job has ended and pod %s still has the finalizer", p.Name)
				}
			}
		}
	}
}

func (w *world) job() *batchv1.Job { return cachetest.All[batchv1.Job](w.api, "batch", "jobs")[0] }

func (w *world) pods() []*corev1.Pod { return cachetest.All[corev1.Pod](w.api, "", "pods") }

// live are the pods that work; those that were given up do not count any more.
func (w *world) live() []*corev1.Pod {
	out := pods.Filter(w.pods(), func(p *corev1.Pod) bool { return pods.IsActive(p) && isTracked(p) })
	slices.SortFunc(out, func(a, b *corev1.Pod) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out
}

// end makes a pod end.
func (w *world) end(p *corev1.Pod, phase corev1.PodPhase) {
	w.mu.Lock()
	switch {
	case !isTracked(p):
	case phase == corev1.PodSucceeded:
		w.succeeded[p.UID] = true
		w.byIndex[indexOf(p)]++
	default:
		w.failed[p.UID] = true
	}
	w.mu.Unlock()
	p.Status.Phase = phase
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: metav1.Now(), ExitCode: 1}}}}
	if _, err := w.client.CoreV1().Pods("default").UpdateStatus(context.Background(), p, metav1.UpdateOptions{}); err != nil {
		w.problem("end of a pod: %v", err)
	}
}

// remove asks a pod to go, as a user does or an eviction.
func (w *world) remove(p *corev1.Pod) {
	if isTracked(p) {
		w.mu.Lock()
		w.failed[p.UID] = true
		w.mu.Unlock()
	}
	_ = w.client.CoreV1().Pods("default").Delete(context.Background(), p.Name, metav1.DeleteOptions{})
}

// node starts what is new and ends what was asked to go.
func (w *world) node() {
	now := int64(0)
	for _, p := range w.pods() {
		switch {
		case p.DeletionTimestamp != nil:
			if !pods.IsFinished(p) {
				w.end(p, corev1.PodFailed)
			}
			_ = w.client.CoreV1().Pods("default").Delete(context.Background(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
		case p.Spec.NodeName == "":
			_ = w.client.CoreV1().Pods("default").Bind(context.Background(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: p.Name}, Target: corev1.ObjectReference{Name: "node"}}, metav1.CreateOptions{})
		case p.Status.Phase == corev1.PodPending:
			p.Status.Phase = corev1.PodRunning
			pods.SetCondition(p, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
			_, _ = w.client.CoreV1().Pods("default").UpdateStatus(context.Background(), p, metav1.UpdateOptions{})
		}
	}
}

func (w *world) change(f func(*batchv1.JobSpec)) {
	for {
		j := w.job()
		f(&j.Spec)
		w.mu.Lock()
		w.most = max(w.most, *j.Spec.Parallelism)
		w.mu.Unlock()
		if _, err := w.client.BatchV1().Jobs("default").Update(context.Background(), j, metav1.UpdateOptions{}); err == nil {
			return
		}
	}
}

// fine fails the test with what was found on the way.
func (w *world) fine() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.problems) > 0 {
		w.t.Fatalf("%v", w.problems)
	}
}

func p[T any](v T) *T { return &v }

func testJob(indexed bool, completions *int32, parallelism int32) *batchv1.Job {
	mode := batchv1.NonIndexedCompletion
	if indexed {
		mode = batchv1.IndexedCompletion
	}
	labels := map[string]string{batchv1.JobNameLabel: "work"}
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "work", Namespace: "default"},
		Spec: batchv1.JobSpec{
			CompletionMode: &mode, Completions: completions, Parallelism: &parallelism, BackoffLimit: p(int32(1000)),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "work:1"}},
			}},
		},
	}
}

// Random ends of pods, deletions, changes of the Job and crashes between any two
// writes: nothing is counted twice or lost, and in the end all is done and quiet.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cachetest.InBubble(t, rt, func(t *rapid.T) {
			indexed := rapid.Bool().Draw(t, "indexed")
			completions := rapid.Int32Range(1, 6).Draw(t, "completions")
			job := testJob(indexed, &completions, rapid.Int32Range(1, 4).Draw(t, "parallelism"))
			if rapid.Bool().Draw(t, "replace late") {
				job.Spec.PodReplacementPolicy = p(batchv1.Failed)
			}
			if indexed && rapid.Bool().Draw(t, "per index") {
				job.Spec.BackoffLimitPerIndex = p(int32(1000))
			}
			w := newWorld(t, job)
			defer w.server.Stop()
			one := func(t *rapid.T, do func(*corev1.Pod)) {
				if live := w.live(); len(live) > 0 {
					do(live[rapid.IntRange(0, len(live)-1).Draw(t, "pod")])
				}
			}
			steps := map[string]func(*rapid.T){
				"succeed": func(t *rapid.T) { one(t, func(p *corev1.Pod) { w.end(p, corev1.PodSucceeded) }) },
				"fail":    func(t *rapid.T) { one(t, func(p *corev1.Pod) { w.end(p, corev1.PodFailed) }) },
				"delete":  func(t *rapid.T) { one(t, w.remove) },
				"node":    func(*rapid.T) { w.node() },
				"crash":   func(t *rapid.T) { w.server.CrashAfter(rapid.Int64Range(0, 8).Draw(t, "writes")) },
				"restart": func(*rapid.T) { w.server.Restart() },
				"parallel": func(t *rapid.T) {
					n := rapid.Int32Range(0, 4).Draw(t, "parallelism")
					w.change(func(s *batchv1.JobSpec) { s.Parallelism = &n })
				},
				"suspend": func(*rapid.T) { w.change(func(s *batchv1.JobSpec) { s.Suspend = p(!suspended(w.job())) }) },
				"wait":    func(t *rapid.T) { time.Sleep(time.Duration(rapid.IntRange(1, 30).Draw(t, "seconds")) * time.Second) },
			}
			names := slices.Sorted(maps.Keys(steps))
			for range rapid.IntRange(1, 25).Draw(t, "steps") {
				steps[rapid.SampledFrom(names).Draw(t, "step")](t)
				synctest.Wait()
				time.Sleep(time.Duration(rapid.IntRange(0, 1200).Draw(t, "ms")) * time.Millisecond)
				synctest.Wait()
				w.fine()
			}
			w.finish()
		})
	})
}

// finish lets everything succeed and checks the sums.
func (w *world) finish() {
	w.server.Restart()
	w.change(func(s *batchv1.JobSpec) { s.Suspend, s.Parallelism = p(false), p(int32(3)) })
	for range 400 {
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if Finished(w.job()) != nil {
			break
		}
		w.node()
		for _, pod := range w.live() {
			w.end(pod, corev1.PodSucceeded)
		}
	}
	time.Sleep(15 * time.Minute)
	synctest.Wait()
	w.node()
	time.Sleep(time.Minute)
	synctest.Wait()
	w.fine()
	job := w.job()
	if c := Finished(job); c == nil || c.Type != batchv1.JobComplete || met(job, batchv1.JobSuccessCriteriaMet) == nil {
		w.t.Fatalf("it does not complete: %+v", job.Status)
	}
	if int(job.Status.Failed) != len(w.failed) {
		w.t.Fatalf("%d failures are counted, there were %d", job.Status.Failed, len(w.failed))
	}
	if int(job.Status.Succeeded) != len(w.succeeded) {
		w.t.Fatalf("%d successes are counted, there were %d", job.Status.Succeeded, len(w.succeeded))
	}
	for i, n := range w.byIndex {
		if i != noIndex && n != 1 {
			w.t.Fatalf("index %d has succeeded %d times", i, n)
		}
	}
	if isIndexed(job) && parseIndexes(job.Status.CompletedIndexes, 1000).count() != int(*job.Spec.Completions) {
		w.t.Fatalf("completed are %q of %d", job.Status.CompletedIndexes, *job.Spec.Completions)
	}
	if s := job.Status; s.Active != 0 || *s.Ready != 0 || *s.Terminating != 0 || len(s.UncountedTerminatedPods.Succeeded)+len(s.UncountedTerminatedPods.Failed) != 0 {
		w.t.Fatalf("the status does not end: %+v", s)
	}
	for _, pod := range w.pods() {
		if isTracked(pod) || pods.IsActive(pod) {
			w.t.Fatalf("pod %s is left: %v %v", pod.Name, pod.Finalizers, pod.Status.Phase)
		}
	}
	before := w.server.Writes()
	time.Sleep(time.Hour)
	synctest.Wait()
	if n := w.server.Writes() - before; n != 0 {
		w.t.Fatalf("%d writes though nothing changed", n)
	}
}
