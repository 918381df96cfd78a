package shortage

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/events"
	"bramble.dev/agent/podspec"
	"bramble.dev/agent/status"
)

// systemCritical is the least priority of pods that the node cannot do without; such are never evicted.
const systemCritical = 2_000_000_000

func critical(pod *corev1.Pod) bool {
	return podspec.Priority(pod) >= systemCritical
}

// Refuse says why a board under pressure does not take a pod, or nil.
func Refuse(pod *corev1.Pod, p status.Pressure) *status.Waiting {
	under := names(p)
	if len(under) == 0 || critical(pod) {
		return nil
	}
	if p.Memory && len(under) == 1 {
		tolerates := slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
			return (t.Key == corev1.TaintNodeMemoryPressure || t.Key == "" && t.Operator == corev1.TolerationOpExists) && (t.Effect == "" || t.Effect == corev1.TaintEffectNoSchedule)
		})
		if podspec.QOS(pod) != corev1.PodQOSBestEffort || tolerates {
			return nil
		}
	}
	return &status.Waiting{Reason: events.Evicted, Message: fmt.Sprintf("The node had condition: %v. ", under)}
}
