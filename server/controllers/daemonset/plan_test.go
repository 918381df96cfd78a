package daemonset

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

func summary(p plan) string {
	var out []string
	for _, node := range p.create {
		out = append(out, "create on "+node)
	}
	for _, pod := range p.delete {
		out = append(out, "delete on "+nodeOf(pod))
	}
	for _, e := range p.ended {
		out = append(out, "replace on "+e.node)
	}
	for _, pod := range p.relabel {
		out = append(out, "relabel on "+nodeOf(pod))
	}
	if p.wake > 0 {
		out = append(out, fmt.Sprint("wake in ", p.wake))
	}
	return strings.Join(out, ", ")
}

// on finds the pod of a node.
func (w *world) on(node string) string {
	for _, name := range keys(w.pods) {
		if nodeOf(w.pods[name]) == node {
			return name
		}
	}
	return ""
}

func TestPlan(t *testing.T) {
	taint := func(w *world, node string, effect corev1.TaintEffect) {
		w.nodes[node] = w.nodes[node].DeepCopy()
		w.nodes[node].Spec.Taints = []corev1.Taint{{Key: "x", Effect: effect}}
	}
	fail := func(w *world, node string) { w.pods[w.on(node)].Status = corev1.PodStatus{Phase: corev1.PodFailed} }
	for _, c := range []struct {
		name               string
		surge, unavailable string
		change             func(*world)
		want               string
	}{
		{"nothing to do", "0", "1", func(*world) {}, ""},
		{"a node comes", "0", "1", func(w *world) { w.nodes["d"] = newWorld(t, w.ds, "d").nodes["d"] }, "create on d"},
		{"a node that is not meant comes", "0", "1", func(w *world) { w.nodes["d"] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "d"}} }, ""},
		{"a node is not meant any more", "0", "1", func(w *world) { w.nodes["a"] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}} }, "delete on a"},
		{"a taint lets stay", "0", "1", func(w *world) { taint(w, "a", corev1.TaintEffectNoSchedule) }, ""},
		{"a taint drives away", "0", "1", func(w *world) { taint(w, "a", corev1.TaintEffectNoExecute) }, "delete on a"},
		{"a node is gone, and its pod with it", "0", "1", func(w *world) { delete(w.nodes, "a") }, ""},
		{"a node is gone before its pod came", "0", "1", func(w *world) {
			w.pods[w.on("a")].Spec.NodeName = ""
			delete(w.nodes, "a")
		}, "delete on a"},
		{"a pod is gone", "0", "1", func(w *world) { delete(w.pods, w.on("b")) }, "create on b"},
		{"a pod that is going is waited for", "0", "1", func(w *world) { w.ask(w.on("b")) }, ""},
		{"a pod has failed", "0", "1", func(w *world) { fail(w, "b") }, "replace on b"},
		{"a pod has failed again", "0", "1", func(w *world) { fail(w, "b"); w.failures["b"] = true }, "wake in 1s"},
		{"one is too many", "0", "1", func(w *world) {
			twin := w.pods[w.on("a")].DeepCopy()
			twin.Name, twin.CreationTimestamp = "d-twin", metav1.NewTime(w.now.Add(time.Hour))
			w.pods[twin.Name] = twin
		}, "delete on a"},
		{"one may be away", "0", "1", func(w *world) { w.ds.Spec.Template = template("2") }, "delete on a"},
		{"half may be away", "0", "50%", func(w *world) { w.ds.Spec.Template = template("2") }, "delete on a, delete on b"},
		{"one is away", "0", "1", func(w *world) { w.ds.Spec.Template = template("2"); w.ask(w.on("c")) }, ""},
		{"what is broken goes first", "0", "1", func(w *world) { w.ds.Spec.Template = template("2"); w.setReady(w.on("c"), false) }, "delete on c"},
		{"a surge", "1", "0", func(w *world) { w.ds.Spec.Template = template("2") }, "create on a"},
		{"a surge over what is broken costs nothing", "1", "0", func(w *world) { w.ds.Spec.Template = template("2"); w.setReady(w.on("c"), false) }, "create on c, create on a"},
		{"by hand", "0", "1", func(w *world) {
			w.ds.Spec.Template = template("2")
			w.ds.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
		}, ""},
		{"a duplicate of the template", "0", "1", func(w *world) {
			other := w.history[0].DeepCopy()
			other.Name, other.Revision = "d-other", 7
			other.Labels[appsv1.ControllerRevisionHashLabelKey] = "other"
			w.history = append(w.history, other)
			w.ds.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
			for _, name := range keys(w.pods)[1:] {
				delete(w.pods, name)
			}
			delete(w.nodes, "b")
			delete(w.nodes, "c")
		}, "relabel on a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, newDaemonSet(c.surge, c.unavailable, "1"), "a", "b", "c")
			w.converge()
			c.change(w)
			if got := summary(decide(w.observe())); got != c.want {
				t.Errorf("does %q, want %q", got, c.want)
			}
		})
	}
}

// Two rollouts overtake each other: the older of two old pods does not serve.
func TestOfTwoOldPodsTheOneThatServesStays(t *testing.T) {
	w := newWorld(t, newDaemonSet("1", "0", "1"), "a")
	w.converge()
	first := w.on("a")
	twin := w.pods[first].DeepCopy()
	twin.Name, twin.CreationTimestamp = "d-twin", metav1.NewTime(w.now.Add(time.Hour))
	w.pods[twin.Name] = twin
	w.setReady(first, false)
	w.ds.Spec.Template = template("2")
	p := decide(w.observe())
	if summary(p) != "delete on a" || p.delete[0].Name != first {
		t.Errorf("does %q to %v", summary(p), p.delete)
	}
}

func TestStatus(t *testing.T) {
	w := newWorld(t, newDaemonSet("0", "1", "1"), "a", "b", "c")
	w.converge()
	w.ds.Spec.Template, w.ds.Generation = template("2"), 2
	w.step(everything)
	w.advance(w.on("a")) // gone
	w.nodes["b"] = w.nodes["b"].DeepCopy()
	w.nodes["b"].Spec.Taints = []corev1.Taint{{Key: "x", Effect: corev1.TaintEffectNoSchedule}}
	w.step(everything)
	w.step(0)
	got := decide(w.observe()).status
	want := appsv1.DaemonSetStatus{
		ObservedGeneration: 2, DesiredNumberScheduled: 2, CurrentNumberScheduled: 2, NumberMisscheduled: 1,
		NumberReady: 1, NumberAvailable: 1, NumberUnavailable: 1, UpdatedNumberScheduled: 1,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestPod(t *testing.T) {
	ds := newDaemonSet("0", "1", "1")
	ds.Annotations = map[string]string{appsv1.DeprecatedTemplateGeneration: "4"}
	ds.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr(int64(3))}}
	ds.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{}, {}}},
	}}
	pod := newPod(ds, "h", "n")
	if nodeOf(pod) != "n" || len(pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms) != 1 {
		t.Errorf("affinity %v", pod.Spec.Affinity)
	}
	if pod.Labels["controller-revision-hash"] != "h" || pod.Labels["pod-template-generation"] != "4" || pod.GenerateName != "d-" {
		t.Errorf("metadata %v", pod.ObjectMeta)
	}
	var got []string
	for _, toleration := range pod.Spec.Tolerations {
		got = append(got, fmt.Sprintf("%s:%s", strings.TrimPrefix(toleration.Key, "node.kubernetes.io/"), toleration.Effect))
		if toleration.TolerationSeconds != nil {
			t.Errorf("%s is tolerated for %d s", toleration.Key, *toleration.TolerationSeconds)
		}
	}
	want := "not-ready:NoExecute unreachable:NoExecute disk-pressure:NoSchedule memory-pressure:NoSchedule pid-pressure:NoSchedule unschedulable:NoSchedule"
	if strings.Join(got, " ") != want {
		t.Errorf("tolerates %v", got)
	}
	ds.Spec.Template.Spec.HostNetwork = true
	if n := len(newPod(ds, "h", "n").Spec.Tolerations); n != 7 {
		t.Errorf("%d tolerations with the host's network", n)
	}
	if ds.Spec.Template.Spec.Tolerations[0].TolerationSeconds == nil {
		t.Error("the template was changed")
	}
}
