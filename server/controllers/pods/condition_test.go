package pods

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSetCondition(t *testing.T) {
	then, now := metav1.NewTime(time.Unix(1000, 0)), metav1.NewTime(time.Unix(2000, 0))
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Generation: 1}}
	for _, step := range []struct {
		name       string
		generation int64
		status     corev1.ConditionStatus
		at, want   metav1.Time
	}{
		{"new", 1, corev1.ConditionFalse, then, then},
		{"of a later generation, with the status that it had", 2, corev1.ConditionFalse, now, then},
		{"changed", 3, corev1.ConditionTrue, now, now},
	} {
		pod.Generation = step.generation
		SetCondition(pod, corev1.PodCondition{Type: corev1.PodScheduled, Status: step.status, LastTransitionTime: step.at})
		c := Condition(pod, corev1.PodScheduled)
		if len(pod.Status.Conditions) != 1 || c.Status != step.status || c.LastTransitionTime != step.want || c.ObservedGeneration != step.generation {
			t.Errorf("%s: %+v", step.name, pod.Status.Conditions)
		}
	}
}
