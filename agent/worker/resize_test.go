package worker

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/fake"
	"bramble.dev/agent/status"
)

// sizedPod asks for memory; a generation for each version of it.
func sizedPod(uid types.UID, memory string, generation int64, change ...func(*corev1.Pod)) *corev1.Pod {
	p := pod(change...)
	p.Name, p.UID, p.Generation = string(uid), uid, generation
	list := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory)}
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list, Limits: list}
	return p
}

func restartsForMemory(p *corev1.Pod) {
	p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	p.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}}
}

// room admits pods whose memory fits into an amount together.
func room(amount string) func(*corev1.Pod, []*corev1.Pod) *status.Waiting {
	has := resource.MustParse(amount)
	return func(pod *corev1.Pod, others []*corev1.Pod) *status.Waiting {
		sum := *pod.Spec.Containers[0].Resources.Requests.Memory()
		for _, o := range others {
			sum.Add(*o.Spec.Containers[0].Resources.Requests.Memory())
		}
		if sum.Cmp(has) > 0 {
			return &status.Waiting{Reason: "OutOfmemory", Message: "Node didn't have enough resource: memory"}
		}
		return nil
	}
}

// size tells of a pod: what its container has, what it was given, and the conditions of its resize.
func (n *node) size(uid types.UID) string {
	s := n.status(uid)
	c := s.ContainerStatuses[0]
	out := c.Resources.Limits.Memory().String() + " " + c.AllocatedResources.Memory().String()
	for _, x := range s.Conditions {
		if x.Type == corev1.PodResizePending || x.Type == corev1.PodResizeInProgress {
			out += " " + string(x.Type) + " " + x.Reason
		}
	}
	return out
}

func (n *node) expectSize(uid types.UID, want string) {
	n.t.Helper()
	if got := n.size(uid); got != want {
		n.t.Errorf("pod %s: %q, want %q", uid, got, want)
	}
}

func (n *node) asked(operation string) int {
	count := 0
	for _, line := range n.runtime.Log() {
		if strings.HasPrefix(line, operation) {
			count++
		}
	}
	return count
}

func TestResizeInPlace(t *testing.T) {
	simulate(t, func(n *node) {
		n.m.Set([]*corev1.Pod{sizedPod("u1", "64Mi", 1)})
		n.after(time.Second)
		n.expectSize("u1", "64Mi 64Mi")
		n.m.Set([]*corev1.Pod{sizedPod("u1", "128Mi", 2)})
		n.after(time.Second)
		n.expectSize("u1", "128Mi 128Mi")
		n.expect("u1", "Running app:running/0+")
		if s := n.status("u1"); s.ObservedGeneration != 2 {
			t.Errorf("observed generation %d", s.ObservedGeneration)
		}
		what := `{"containers":[{"name":"app","resources":{"limits":{"memory":"128Mi"},"requests":{"memory":"128Mi"}}}],"generation":2}`
		n.sawEvent("Normal ResizeStarted: Pod resize started: " + what)
		n.sawEvent("Normal ResizeCompleted: Pod resize completed: " + what)
		if got := n.asked("Resize"); got != 1 {
			t.Errorf("the limits were written %d times", got)
		}
	})
}

func TestResizeByRestart(t *testing.T) {
	simulate(t, func(n *node) {
		n.runtime.Behave("app", fake.Behavior{StopAfter: time.Second})
		n.m.Set([]*corev1.Pod{sizedPod("u1", "64Mi", 1, restartsForMemory)})
		n.after(time.Second)
		for i, size := range []string{"128Mi", "32Mi"} { // no back-off between them
			n.m.Set([]*corev1.Pod{sizedPod("u1", size, int64(i+2), restartsForMemory)})
			n.after(500 * time.Millisecond)
			if got := n.size("u1"); !strings.Contains(got, " "+size+" PodResizeInProgress") {
				t.Errorf("while it ends: %q", got)
			}
			n.after(2 * time.Second)
			n.expectSize("u1", size+" "+size)
		}
		n.expect("u1", "Running app:running/2+")
		n.sawEvent("Killing: Container app resize requires restart")
	})
}

func TestResizeWaitsForRoom(t *testing.T) {
	simulate(t, func(n *node) {
		n.m.Admit = room("300Mi")
		a, b, c := sizedPod("a", "100Mi", 1), sizedPod("b", "50Mi", 1), sizedPod("c", "100Mi", 1)
		n.m.Set([]*corev1.Pod{a, b, c})
		n.after(time.Second)
		important := func(p *corev1.Pod) { priority := int32(10); p.Spec.Priority = &priority }
		a, b = sizedPod("a", "180Mi", 2), sizedPod("b", "120Mi", 2, important)
		n.m.Set([]*corev1.Pod{a, b, c})
		n.after(time.Second)
		n.expectSize("a", "100Mi 100Mi PodResizePending Deferred")
		n.expectSize("b", "50Mi 50Mi PodResizePending Deferred")
		n.sawEvent(`Warning ResizeDeferred: Pod resize Deferred: {"containers":[{"name":"app","resources":{"limits":{"memory":"180Mi"},"requests":{"memory":"180Mi"}}}],"generation":2,"error":"Node didn't have enough resource: memory"}`)

		n.stop() // what was given, and what waits, is remembered
		n.start()
		n.m.Admit = room("300Mi")
		n.m.Set([]*corev1.Pod{a, b, c})
		n.after(time.Second)
		n.expectSize("a", "100Mi 100Mi PodResizePending Deferred")

		c = sizedPod("c", "20Mi", 2)
		n.m.Set([]*corev1.Pod{a, b, c})
		n.after(time.Second)
		n.expectSize("c", "20Mi 20Mi")
		n.expectSize("b", "120Mi 120Mi")
		n.expectSize("a", "100Mi 100Mi PodResizePending Deferred")

		n.m.Set([]*corev1.Pod{a, c})
		n.after(time.Minute)
		n.expectSize("a", "180Mi 180Mi")

		a = sizedPod("a", "500Mi", 3)
		n.m.Set([]*corev1.Pod{a, c})
		n.after(time.Second)
		n.expectSize("a", "180Mi 180Mi PodResizePending Deferred")
		n.m.Set([]*corev1.Pod{sizedPod("a", "180Mi", 4), c})
		n.after(time.Second)
		n.expectSize("a", "180Mi 180Mi")
	})
}

func TestResizeFails(t *testing.T) {
	simulate(t, func(n *node) {
		n.m.Set([]*corev1.Pod{sizedPod("u1", "64Mi", 1)})
		n.after(time.Second)
		n.runtime.Fail = func(operation string) error {
			if operation == "Resize" {
				return errors.New("cannot decrease memory limits: attempting to set container \"app\" memory limit (1) below current usage (2)")
			}
			return nil
		}
		n.m.Set([]*corev1.Pod{sizedPod("u1", "1", 2)})
		n.after(10 * time.Minute)
		n.expectSize("u1", "64Mi 1 PodResizeInProgress Error")
		if tries := n.asked("Resize"); tries < 10 || tries > 20 {
			t.Errorf("tried %d times", tries)
		}
		n.mu.Lock()
		told := len(slices.DeleteFunc(slices.Clone(n.events), func(s string) bool { return !strings.Contains(s, "ResizeError") }))
		n.mu.Unlock()
		if told != 1 {
			t.Errorf("told %d times", told)
		}
		n.runtime.Fail = nil
		n.stop()
		n.start()
		n.m.Set([]*corev1.Pod{sizedPod("u1", "32Mi", 3)})
		n.after(time.Second)
		n.expectSize("u1", "32Mi 32Mi")
	})
}
