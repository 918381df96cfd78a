package podgc

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/link"
)

func TestEnded(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	node := func(ready corev1.ConditionStatus, taints ...string) *corev1.Node {
		n := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
		for _, k := range taints {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: k, Effect: corev1.TaintEffectNoExecute})
		}
		return n
	}
	plain := corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{Time: now}}}
	fenced := plain
	fenced.Status.Conditions = []corev1.PodCondition{link.Fence{Stop: 60 * time.Second, Kill: 100 * time.Second}.Condition(now)}
	staying := fenced
	staying.DeletionTimestamp = nil
	passes := link.FencePassed(100 * time.Second)
	for _, test := range []struct {
		name string
		pod  corev1.Pod
		a    absent
		want bool
		in   time.Duration
	}{
		{"an unreachable node's pod waits for it", plain, absent{node: node("Unknown"), held: now.Add(-time.Hour)}, false, 0},
		{"unless a person says that the node is dead", plain, absent{node: node("Unknown", corev1.TaintNodeOutOfService), held: now}, true, 0},
		{"who is wrong while it is ready", plain, absent{node: node("True", corev1.TaintNodeOutOfService), online: true, held: now}, false, 0},
		{"a fence that has passed", fenced, absent{node: node("Unknown"), held: now.Add(-passes)}, true, 0},
		{"that has not", fenced, absent{node: node("Unknown"), held: now.Add(-passes + 7*time.Second)}, false, 7 * time.Second},
		{"of a node that is back", fenced, absent{node: node("Unknown"), online: true, held: now.Add(-time.Hour)}, false, 0},
		{"nobody asked it to go", staying, absent{node: node("Unknown"), held: now.Add(-time.Hour)}, false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got, in := ended(&test.pod, test.a, now); got != test.want || in != test.in {
				t.Errorf("got %v in %v, want %v in %v", got, in, test.want, test.in)
			}
		})
	}
}
