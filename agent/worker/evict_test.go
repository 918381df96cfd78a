package worker

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/agent/fake"
)

// TestEviction: an evicted pod ends within its short grace, fails with the reason and the condition, is not started again by
// a restart of the agent, and nothing evicts it twice.
func TestEviction(t *testing.T) {
	simulate(t, func(n *node) {
		p := pod()
		n.runtime.Behave("app", fake.Behavior{StopAfter: time.Hour}) // it does not listen to its signal
		grace := int64(3600)
		p.Spec.TerminationGracePeriodSeconds = &grace
		n.m.Set([]*corev1.Pod{p})
		n.after(time.Second)
		why := Eviction{Message: "The node was low on resource: memory. ", Disruption: &corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet,
			Message: "The node was low on resource: memory. ", LastTransitionTime: metav1.Now(),
		}}
		if !n.m.Evict("u1", why) {
			t.Fatal("not evicted")
		}
		n.after(0)
		if s := n.status("u1"); s.Phase != corev1.PodRunning || slices.ContainsFunc(s.Conditions, isDisruption) {
			t.Errorf("while it still runs it is %s, %v", s.Phase, s.Conditions)
		}
		if n.m.Evict("u1", why) {
			t.Error("evicted twice")
		}
		n.after(3 * time.Second)
		for range 2 {
			s := n.status("u1")
			at := slices.IndexFunc(s.Conditions, isDisruption)
			if s.Phase != corev1.PodFailed || s.Reason != "Evicted" || s.Message != why.Message || at < 0 || s.Conditions[at].Reason != "TerminationByKubelet" || !n.finished["u1"] {
				t.Errorf("evicted: %+v, finished %v", s, n.finished["u1"])
			}
			if v, ok := n.m.Pod(p.Namespace, p.Name, "u1"); !ok || !v.Finished || !v.Ending {
				t.Errorf("view %+v", v)
			}
			n.stop()
			n.start()
			n.m.Set([]*corev1.Pod{p})
			n.after(time.Second)
		}
		n.sawEvent("Warning Evicted: The node was low on resource: memory. ")
	})
}

func isDisruption(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget }

// A pod of the longest name, in a namespace of the longest name, has a folder for its logs that a file system takes, and
// that no other pod has.
func TestLogDirOfLongNames(t *testing.T) {
	const uid = "66678e2e-893d-4964-a09a-96c6c8df0a65"
	dir := t.TempDir()
	long := LogDir(dir, strings.Repeat("n", 63), strings.Repeat("p", 253), uid)
	if err := os.MkdirAll(long, 0o755); err != nil || !strings.HasSuffix(long, "pp_"+uid) {
		t.Errorf("%s: %v", long, err)
	}
	if got := LogDir("/d", "ns", "web", uid); got != "/d/logs/pods/ns_web_"+uid {
		t.Error(got)
	}
}

func TestDropLogs(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"9.log", "10.log", "10.log.1", "8.log", "8.log.4", "notes", "x.log"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := dropLogs(dir, 2); err != nil {
		t.Fatal(err)
	}
	entries, _ := os.ReadDir(dir)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if want := []string{"10.log", "10.log.1", "9.log", "notes", "x.log"}; !slices.Equal(got, want) {
		t.Errorf("left %v", got)
	}
}
