package shortage

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/status"
)

// condition is the node's condition that a shortage leads to.
func (s Signal) condition() corev1.NodeConditionType {
	switch {
	case s == MemoryAvailable:
		return corev1.NodeMemoryPressure
	case s == PIDAvailable:
		return corev1.NodePIDPressure
	}
	return corev1.NodeDiskPressure
}

// conditions are when each was last called for.
type conditions map[corev1.NodeConditionType]time.Time

// note takes in the thresholds that are met.
func (c conditions) note(met []Threshold, now time.Time) {
	for _, t := range met {
		c[t.Signal.condition()] = now
	}
}

// since gives the conditions that were called for within a time: one that came and went at once would send pods to the board
// and away again.
func (c conditions) since(transition time.Duration, now time.Time) status.Pressure {
	on := func(t corev1.NodeConditionType) bool {
		at, ok := c[t]
		return ok && now.Sub(at) < transition
	}
	return status.Pressure{Memory: on(corev1.NodeMemoryPressure), Disk: on(corev1.NodeDiskPressure), PID: on(corev1.NodePIDPressure)}
}

// names of the conditions, in the order of their signals.
func names(p status.Pressure) []corev1.NodeConditionType {
	var out []corev1.NodeConditionType
	if p.Memory {
		out = append(out, corev1.NodeMemoryPressure)
	}
	if p.Disk {
		out = append(out, corev1.NodeDiskPressure)
	}
	if p.PID {
		out = append(out, corev1.NodePIDPressure)
	}
	return out
}
