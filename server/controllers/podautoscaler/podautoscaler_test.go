package podautoscaler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"pgregory.net/rapid"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

// workload is a target whose one pod uses what is set.
type workload struct {
	size  atomic.Int32
	use   atomic.Int64
	asked atomic.Int32
	gone  atomic.Bool
	mute  atomic.Bool // it answers when the question has been given up
}

func (w *workload) Scale(ctx context.Context, _ string, ref autoscalingv2.CrossVersionObjectReference) (*autoscalingv1.Scale, schema.GroupVersionResource, error) {
	if w.mute.Load() || ref.Name == "silent" {
		<-ctx.Done()
		return nil, schema.GroupVersionResource{}, ctx.Err()
	}
	if w.gone.Load() {
		return nil, schema.GroupVersionResource{}, apierrors.NewNotFound(schema.GroupResource{Group: "apps", Resource: "deployments"}, ref.Name)
	}
	return &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: w.size.Load()}, Status: autoscalingv1.ScaleStatus{Selector: "app=web"}}, schema.GroupVersionResource{}, nil
}

func (w *workload) Resize(_ context.Context, _ schema.GroupVersionResource, scale *autoscalingv1.Scale) error {
	w.size.Store(scale.Spec.Replicas)
	return nil
}

func (w *workload) Usage(ctx context.Context, _ string, _ labels.Selector) ([]metricsv1beta1.PodMetrics, error) {
	w.asked.Add(1)
	if w.mute.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return []metricsv1beta1.PodMetrics{uses(0, w.use.Load())}, nil
}

func (w *workload) Reading(context.Context, string, labels.Selector, autoscalingv2.MetricSpec) reading {
	return reading{value: w.use.Load()}
}

// started runs the controller until the end of the test, with one pod of the workload.
func started(t *testing.T, w *workload) kubernetes.Interface {
	api := cachetest.New()
	w.size.Store(1)
	w.use.Store(100)
	t.Cleanup(api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
		return New(Inputs{Client: client, Events: &record.FakeRecorder{}, Autoscalers: set.HorizontalPodAutoscalers(), Pods: set.Pods(), Targets: w, Log: slog.New(slog.DiscardHandler)})
	}).Stop)
	p := pod(0)
	p.Labels = map[string]string{"app": "web"}
	if _, err := api.Client().CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return api.Client()
}

// Nobody is asked without an autoscaler; with one, every fifteen seconds, until it is deleted.
func TestLooksWhileThereIsAnAutoscaler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, w := t.Context(), &workload{}
		client := started(t, w)
		time.Sleep(time.Hour)
		if n := w.asked.Load(); n != 0 {
			t.Errorf("nodes were asked %d times for nobody", n)
		}
		autoscalers := client.AutoscalingV2().HorizontalPodAutoscalers("default")
		if _, err := autoscalers.Create(ctx, autoscaler(1, 10, cpu("200")), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute + time.Second)
		if n := w.asked.Load(); n != 5 || w.size.Load() != 1 {
			t.Errorf("asked %d times in a minute, size %d", n, w.size.Load())
		}
		a, _ := autoscalers.Get(ctx, "web", metav1.GetOptions{})
		if m := a.Status.CurrentMetrics; len(m) != 1 || *m[0].Resource.Current.AverageUtilization != 100 || *a.Status.ObservedGeneration != a.Generation {
			t.Errorf("status %+v", a.Status)
		}

		a.Spec.Metrics[0].Resource.Target.AverageUtilization = ptr(int32(50)) // acted upon at once
		if _, err := autoscalers.Update(ctx, a, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if w.size.Load() != 2 {
			t.Errorf("size %d after a new target", w.size.Load())
		}
		w.gone.Store(true)
		time.Sleep(time.Minute)
		a, _ = autoscalers.Get(ctx, "web", metav1.GetOptions{})
		if c := a.Status.Conditions[0]; c.Reason != "FailedGetScale" || a.Status.DesiredReplicas != 2 {
			t.Errorf("without its target: %+v", a.Status)
		}
		w.gone.Store(false)
		if err := autoscalers.Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		before := w.asked.Load()
		time.Sleep(time.Hour)
		if n := w.asked.Load(); n != before {
			t.Errorf("nodes are asked for an autoscaler that has gone")
		}
	})
}

// However many ask what is silent, the others are looked at every fifteen seconds, and the silence is told of each.
func TestSilenceDelaysNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, w := t.Context(), &workload{}
		client := started(t, w)
		autoscalers := client.AutoscalingV2().HorizontalPodAutoscalers("default")
		for n := range 30 {
			a := autoscaler(1, 10, cpu("200"))
			a.Name, a.Spec.ScaleTargetRef.Name = fmt.Sprintf("silent-%d", n), "silent"
			if _, err := autoscalers.Create(ctx, a, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := autoscalers.Create(ctx, autoscaler(1, 10, cpu("200")), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if n := w.asked.Load(); n < 38 {
			t.Errorf("in ten minutes it was looked %d times at one that asks nobody who is silent", n)
		}
		for n := range 30 {
			a, err := autoscalers.Get(ctx, fmt.Sprintf("silent-%d", n), metav1.GetOptions{})
			if err != nil || len(a.Status.Conditions) == 0 || a.Status.Conditions[0].Reason != "FailedGetScale" {
				t.Fatalf("%v, %+v", err, a.Status)
			}
		}
	})
}

// Whatever has befallen the server, its store and the nodes, the status is that of now half a minute after it is over: no
// autoscaler is lost, waits for an answer for ever, or is made to wait because of what was.
func TestTheStatusIsNeverOldForLong(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { cachetest.InBubble(t, rt, checkFresh) })
}

func checkFresh(t *rapid.T) {
	api, w := cachetest.New(), &workload{}
	client, ctx := api.Client(), context.Background()
	w.size.Store(1)
	w.use.Store(1)
	p := pod(0)
	p.Labels = map[string]string{"app": "web"}
	if _, err := client.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	autoscalers := client.AutoscalingV2().HorizontalPodAutoscalers("default")
	if _, err := autoscalers.Create(ctx, autoscaler(1, 1, cpu("200")), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	server := api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
		return New(Inputs{Client: client, Events: &record.FakeRecorder{}, Autoscalers: set.HorizontalPodAutoscalers(), Pods: set.Pods(), Targets: w, Log: slog.New(slog.DiscardHandler)})
	})
	defer func() { server.Stop() }()
	refuse := func(string, schema.GroupResource, runtime.Object) error { return errors.New("the disk is full") }
	lose := func() { api.Source.Fail(errors.New("no room")); api.Source.Quietly(func() {}) }
	mend := func() { api.SetFail(nil); api.Source.Fail(nil); w.mute.Store(false); w.gone.Store(false) }
	steps := map[string]func(){
		"start anew":         func() { server.Restart() },
		"stop at next write": func() { server.CrashAfter(0) },
		"refuse writes":      func() { api.SetFail(refuse) },
		"caches fall behind": lose,
		"nobody answers":     func() { w.mute.Store(true) },
		"no target":          func() { w.gone.Store(true) },
		"all is well":        mend,
		"wait":               func() {},
	}
	names := slices.Sorted(maps.Keys(steps))
	for range rapid.IntRange(1, 12).Draw(t, "steps") {
		w.use.Store(w.use.Load()%150 + 1)
		steps[rapid.SampledFrom(names).Draw(t, "step")]()
		time.Sleep(time.Duration(rapid.IntRange(0, 120_000).Draw(t, "ms")) * time.Millisecond)
	}
	mend()
	if rapid.Bool().Draw(t, "at last anew") || server.Stopping() {
		server.Restart()
	}
	w.use.Store(w.use.Load()%150 + 1)
	time.Sleep(30 * time.Second)
	synctest.Wait()
	a, err := autoscalers.Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := a.Status.CurrentMetrics
	if len(m) != 1 || m[0].Resource == nil || int64(*m[0].Resource.Current.AverageUtilization) != w.use.Load() {
		t.Fatalf("the pod uses %d, the status is %+v", w.use.Load(), a.Status)
	}
	before := server.Writes()
	time.Sleep(time.Hour)
	synctest.Wait()
	if n := server.Writes() - before; n != 0 {
		t.Fatalf("%d writes though nothing changed", n)
	}
}

// An autoscaler with an external metric makes a workload of nothing to do vanish, and brings it back.
func TestToZeroAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := cachetest.New()
		client, ctx, w := api.Client(), t.Context(), &workload{}
		w.size.Store(1)
		defer api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
			return New(Inputs{Client: client, Events: &record.FakeRecorder{}, Autoscalers: set.HorizontalPodAutoscalers(), Pods: set.Pods(), Targets: w, Log: slog.New(slog.DiscardHandler)})
		}).Stop()
		if _, err := client.AutoscalingV2().HorizontalPodAutoscalers("default").Create(ctx, autoscaler(0, 5, external("", "10")), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			use  int64
			size int32
		}{{0, 0}, {25_000, 3}, {0, 0}} {
			w.use.Store(step.use)
			time.Sleep(10 * time.Minute)
			if w.size.Load() != step.size {
				t.Errorf("%d replicas at %d, want %d", w.size.Load(), step.use, step.size)
			}
		}
	})
}
