package replicaset

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/pods"
)

// burst bounds what one step creates or deletes.
const burst = 500

// plan is what one step does about the number of pods.
type plan struct {
	create int
	delete []*corev1.Pod
}

// decide compares the wanted number with the active pods. related are the pods
// of the same owner's other sets, active ones included.
func decide(wanted int32, active, related []*corev1.Pod, now time.Time) plan {
	surplus := len(active) - int(wanted)
	switch {
	case surplus < 0:
		return plan{create: min(-surplus, burst)}
	case surplus > 0:
		return plan{delete: pods.ToDelete(active, related, min(surplus, burst), now)}
	}
	return plan{}
}
