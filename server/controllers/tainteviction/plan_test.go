package tainteviction

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestDecide(t *testing.T) {
	taint := corev1.Taint{Key: "fire", Effect: corev1.TaintEffectNoExecute}
	lost := corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}
	for5, for9 := int64(5), int64(9)
	start := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	tolerates := func(key string, seconds *int64) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, TolerationSeconds: seconds}
	}
	for _, test := range []struct {
		name        string
		taints      []corev1.Taint
		tolerations []corev1.Toleration
		want        decision
	}{
		{"no taint", nil, nil, decision{stays: true}},
		{"not tolerated", []corev1.Taint{taint}, nil, decision{at: start}},
		{"tolerated", []corev1.Taint{taint}, []corev1.Toleration{tolerates("fire", nil)}, decision{stays: true}},
		{"tolerated for a time", []corev1.Taint{taint}, []corev1.Toleration{tolerates("fire", &for5)}, decision{at: start.Add(5 * time.Second)}},
		{"the shorter of two", []corev1.Taint{taint}, []corev1.Toleration{tolerates("fire", &for9), tolerates("fire", &for5)}, decision{at: start.Add(5 * time.Second)}},
		{"a node that is away keeps its pods", []corev1.Taint{lost}, nil, decision{stays: true}},
		{"unless they say otherwise", []corev1.Taint{lost}, []corev1.Toleration{tolerates(lost.Key, &for9)}, decision{at: start.Add(9 * time.Second), away: true}},
		{"one of two taints is not tolerated", []corev1.Taint{lost, taint}, []corev1.Toleration{tolerates(lost.Key, nil)}, decision{at: start, away: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := decide(test.taints, test.tolerations, func(string) time.Time { return start }); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
