package podspec

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// A container without a limit sees its pod's, and the node's where the pod has none either.
func TestResourceOfAPodWithLimits(t *testing.T) {
	amount := func(cpu, memory string) corev1.ResourceList {
		list := corev1.ResourceList{}
		for name, q := range map[corev1.ResourceName]string{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory} {
			if q != "" {
				list[name] = resource.MustParse(q)
			}
		}
		return list
	}
	node := amount("4", "8Gi")
	for _, test := range []struct {
		name           string
		pod, container corev1.ResourceList
		cpu, memory    string
	}{
		{"none", nil, nil, "4", "8589934592"},
		{"the pod's", amount("2", "64Mi"), nil, "2", "67108864"},
		{"one is the pod's", amount("", "64Mi"), nil, "4", "67108864"},
		{"the container's own", amount("2", "64Mi"), amount("1", ""), "1", "67108864"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
			pod.Spec.Containers[0].Resources.Limits = test.container
			if test.pod != nil {
				pod.Spec.Resources = &corev1.ResourceRequirements{Limits: test.pod}
			}
			for ref, want := range map[string]string{"limits.cpu": test.cpu, "limits.memory": test.memory} {
				got, err := Resource(pod, &pod.Spec.Containers[0], &corev1.ResourceFieldSelector{Resource: ref}, node)
				if err != nil || got != want {
					t.Errorf("%s is %s (%v), want %s", ref, got, err, want)
				}
			}
		})
	}
}
