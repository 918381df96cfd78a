package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
	"bramble.dev/server/cache/cachetest"
	"bramble.dev/server/controllers/pods"
)

// start runs a scheduler against a stand-in API.
func start(t *testing.T, nodes ...*corev1.Node) *cachetest.API {
	t.Helper()
	api := cachetest.New()
	for _, n := range nodes {
		addNode(t, api, n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	set := api.Set(t)
	go func() {
		defer close(done)
		_ = Run(ctx, Config{Client: api.Client(), Caches: set, Logger: slog.New(slog.DiscardHandler)})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return api
}

func addNode(t *testing.T, api *cachetest.API, n *corev1.Node) {
	t.Helper()
	if _, err := api.Client().CoreV1().Nodes().Create(t.Context(), n.DeepCopy(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func addPod(t *testing.T, api *cachetest.API, p *corev1.Pod) {
	t.Helper()
	if _, err := api.Client().CoreV1().Pods(p.Namespace).Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, api *cachetest.API, name string) *corev1.Pod {
	t.Helper()
	p, err := api.Client().CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
	t.Fatalf("timed out waiting until %s", what)
}

func TestBindsAndTells(t *testing.T) {
	api := start(t, node("a", 4, 8))
	addPod(t, api, pod("fits", "1"))
	addPod(t, api, pod("large", "9"))
	eventually(t, "one is bound", func() bool { return get(t, api, "fits").Spec.NodeName == "a" })
	eventually(t, "the other knows why not", func() bool {
		c := pods.Condition(get(t, api, "large"), corev1.PodScheduled)
		return c != nil && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable &&
			strings.HasPrefix(c.Message, "0/1 nodes are available: 1 Insufficient cpu. preemption: ")
	})
	eventually(t, "events say both", func() bool {
		said := map[string]string{}
		for _, e := range cachetest.All[corev1.Event](api, "", "events") {
			said[e.Reason] = e.Message
		}
		return said["Scheduled"] == "Successfully assigned default/fits to a" && strings.HasPrefix(said["FailedScheduling"], "0/1 nodes are available")
	})
	addNode(t, api, node("b", 16, 8))
	eventually(t, "a larger node takes it", func() bool { return get(t, api, "large").Spec.NodeName == "b" })
}

func TestANodeThatIsFreedTakesTheNext(t *testing.T) {
	api := start(t, node("a", 2, 8))
	addPod(t, api, pod("first", "2"))
	eventually(t, "the first is bound", func() bool { return get(t, api, "first").Spec.NodeName == "a" })
	addPod(t, api, pod("second", "2"))
	eventually(t, "the second waits", func() bool { return pods.Condition(get(t, api, "second"), corev1.PodScheduled) != nil })
	now := int64(0)
	if err := api.Client().CoreV1().Pods("default").Delete(t.Context(), "first", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is bound", func() bool { return get(t, api, "second").Spec.NodeName == "a" })
}

func TestPreempts(t *testing.T) {
	api := start(t, node("a", 2, 8))
	addPod(t, api, pod("cheap", "2"))
	eventually(t, "the cheap one runs", func() bool { return get(t, api, "cheap").Spec.NodeName == "a" })
	addPod(t, api, pod("dear", "2", priority(100)))
	eventually(t, "it is asked to go", func() bool { return get(t, api, "cheap").DeletionTimestamp != nil })
	if c := pods.Condition(get(t, api, "cheap"), corev1.DisruptionTarget); c == nil || c.Reason != corev1.PodReasonPreemptionByScheduler {
		t.Errorf("the victim is not told: %v", c)
	}
	if n := get(t, api, "dear").Status.NominatedNodeName; n != "a" {
		t.Errorf("promised is node %q", n)
	}
	// Another of less priority must not take the place that was made.
	addPod(t, api, pod("sly", "1"))
	now := int64(0)
	if err := api.Client().CoreV1().Pods("default").Delete(t.Context(), "cheap", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the dear one runs", func() bool { return get(t, api, "dear").Spec.NodeName == "a" })
	if n := get(t, api, "sly").Spec.NodeName; n != "" {
		t.Errorf("the sly one is on %q", n)
	}
}

// TestPreemptsElsewhere: whoever was promised a node that is away (its victim ends when it is back, if ever) takes
// another; nor does it wait there for pods that end for another reason.
func TestPreemptsElsewhere(t *testing.T) {
	api := start(t, node("a", 2, 8), node("b", 2, 8))
	for _, p := range []string{"first", "second"} {
		addPod(t, api, pod(p, "1500m"))
		eventually(t, p+" runs", func() bool { return get(t, api, p).Spec.NodeName != "" })
	}
	addPod(t, api, pod("dear", "2", priority(100)))
	var promised string
	eventually(t, "a node is promised", func() bool { promised = get(t, api, "dear").Status.NominatedNodeName; return promised != "" })
	n, err := api.Client().CoreV1().Nodes().Get(t.Context(), promised, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoSchedule}}
	if _, err := api.Client().CoreV1().Nodes().Update(t.Context(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other node is promised", func() bool {
		now := get(t, api, "dear").Status.NominatedNodeName
		return now != "" && now != promised
	})
	for _, p := range []string{"first", "second"} {
		eventually(t, p+" is asked to go", func() bool { return get(t, api, p).DeletionTimestamp != nil }) // after the promise is written
	}
}

// TestTellsOfANodeThatWent: a pod that waits does not go on naming a node that was deleted.
func TestTellsOfANodeThatWent(t *testing.T) {
	api := start(t, node("a", 2, 8), node("b", 2, 8))
	addPod(t, api, pod("large", "9"))
	says := func(want string) func() bool {
		return func() bool {
			c := pods.Condition(get(t, api, "large"), corev1.PodScheduled)
			return c != nil && strings.HasPrefix(c.Message, want)
		}
	}
	eventually(t, "two nodes are named", says("0/2 nodes are available: 2 Insufficient cpu."))
	if err := api.Client().CoreV1().Nodes().Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one is", says("0/1 nodes are available: 1 Insufficient cpu."))
}

func TestEndingFor(t *testing.T) {
	now := metav1.Now()
	ending := func(p *corev1.Pod) { p.Spec.NodeName, p.DeletionTimestamp = "a", &now }
	because := func(reason string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			pods.SetCondition(p, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason})
		}
	}
	for name, c := range map[string]struct {
		other *corev1.Pod
		want  bool
	}{
		"preempted":              {pod("other", "1", ending, because(corev1.PodReasonPreemptionByScheduler)), true},
		"drained":                {pod("other", "1", ending, because("EvictionByEvictionAPI")), false},
		"deleted":                {pod("other", "1", ending), false},
		"of the same priority":   {pod("other", "1", ending, because(corev1.PodReasonPreemptionByScheduler), priority(100)), false},
		"not asked to go as yet": {pod("other", "1", func(p *corev1.Pod) { p.Spec.NodeName = "a" }), false},
	} {
		s := newState(link.ClusterConfig{})
		s.setNode(node("a", 2, 8))
		s.setPod(c.other)
		p := pod("dear", "2", priority(100), func(p *corev1.Pod) { p.Status.NominatedNodeName = "a" })
		if got := s.endingFor(&candidate{pod: p}); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestMany(t *testing.T) {
	nodes := make([]*corev1.Node, 10)
	for i := range nodes {
		nodes[i] = node(fmt.Sprint("n", i), 64, 64)
	}
	api := start(t, nodes...)
	for i := range 100 {
		addPod(t, api, pod(fmt.Sprint("p", i), "100m"))
	}
	perNode := map[string]int{}
	eventually(t, "all are bound", func() bool {
		clear(perNode)
		for _, p := range cachetest.All[corev1.Pod](api, "", "pods") {
			perNode[p.Spec.NodeName]++
		}
		return perNode[""] == 0
	})
	for name, n := range perNode {
		if n != 10 {
			t.Errorf("%s has %d pods, want 10", name, n)
		}
	}
}

// TestForeignImage: what one node has found out about an image keeps its pods from all nodes that cannot run it, says
// so in words, and lets them in when it no longer holds.
func TestForeignImage(t *testing.T) {
	tell := func(platforms string) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Annotations = map[string]string{link.PlatformsAnnotation: platforms} }
	}
	c := node("c", 4, 8, labelled(corev1.LabelArchStable, "arm"))
	c.Status.Images = []corev1.ContainerImage{{Names: []string{"docker.io/library/local:1"}}}
	api := start(t, node("a", 4, 8, tell(`{"docker.io/library/web:1":["linux/amd64"],"docker.io/library/local:1":["linux/amd64"],"docker.io/library/old:1":["linux/arm/v6"]}`)), node("b", 4, 8), c)
	image := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Containers[0].Image = name }
	}
	addPod(t, api, pod("foreign", "1"))
	addPod(t, api, pod("local", "1", image("local:1")))
	addPod(t, api, pod("narrow", "1", image("old:1"), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelArchStable: "arm64"} }))
	want := "0/3 nodes are available: 1 node(s) are linux/arm but image web:1 is for linux/amd64 only: use an image for linux/arm or add a node of linux/amd64, " +
		"2 node(s) are linux/arm64 but image web:1 is for linux/amd64 only: use an image for linux/arm64 or add a node of linux/amd64. preemption: "
	eventually(t, "the pod knows why not", func() bool {
		c := pods.Condition(get(t, api, "foreign"), corev1.PodScheduled)
		return c != nil && strings.HasPrefix(c.Message, want)
	})
	eventually(t, "a node that has the image takes it", func() bool { return get(t, api, "local").Spec.NodeName == "c" })
	eventually(t, "64-bit boards run 32-bit programs", func() bool { return get(t, api, "narrow").Spec.NodeName != "" })

	nodes := api.Client().CoreV1().Nodes()
	a, err := nodes.Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	delete(a.Annotations, link.PlatformsAnnotation)
	if _, err := nodes.Update(t.Context(), a, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is tried again", func() bool { return get(t, api, "foreign").Spec.NodeName != "" })
}
