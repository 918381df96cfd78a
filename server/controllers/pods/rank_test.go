package pods_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/pods"
)

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// running makes a pod that was made, and became ready, so long after the first one.
func running(name string, made, ready time.Duration, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(start.Add(made))}, Spec: corev1.PodSpec{NodeName: "n"}}
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(start.Add(ready))}}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a"}}
	for _, f := range change {
		f(p)
	}
	return p
}

func names(list []*corev1.Pod) string {
	var out []string
	for _, p := range list {
		out = append(out, p.Name)
	}
	return strings.Join(out, " ")
}

// Of a Job the pod goes first that has done the least, also where a server's age would be about the same.
func TestLeastDone(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	unready := func(p *corev1.Pod) { p.Status.Conditions = nil }
	pending := func(p *corev1.Pod) { unready(p); p.Status.Phase = corev1.PodPending }
	all := []*corev1.Pod{
		running("oldest", 0, time.Minute),
		running("dear", time.Second, time.Minute+time.Second, func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "100"} }),
		running("youngest", 2*time.Second, time.Minute+2*time.Second),
		running("unready", 0, 0, unready),
		running("unready-later", time.Second, 0, unready),
		running("restarted", 0, 0, unready, func(p *corev1.Pod) { p.Status.ContainerStatuses[0].RestartCount = 2 }),
		running("sidecar-restarted", 0, 0, unready, func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "s", RestartPolicy: &always}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "s", RestartCount: 1}}
		}),
		running("pending", 0, 0, pending),
		running("nowhere", 0, 0, pending, func(p *corev1.Pod) { p.Spec.NodeName = "" }),
	}
	const want = "nowhere pending restarted sidecar-restarted unready-later unready youngest dear"
	if got := names(pods.LeastDone(all, len(all)-1)); got != want {
		t.Errorf("gives up %s, want %s", got, want)
	}
}
