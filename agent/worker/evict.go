package worker

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/events"
	"bramble.dev/agent/status"
)

// Eviction is the end of a pod that the board, or a limit of the pod's own, calls for.
type Eviction struct {
	Message string
	// Disruption is a condition that the pod gets with its failure; may be nil.
	Disruption *corev1.PodCondition
}

// Evict ends a pod, which fails by it. It says whether there is such a pod that is not being ended already.
func (m *Manager) Evict(uid types.UID, e Eviction) bool {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w == nil {
		return false
	}
	v := w.view()
	if v.Ending || v.Finished || status.Terminal(v.Status.Phase) {
		return false
	}
	m.Events.Event(events.Pod(v.Pod), corev1.EventTypeWarning, events.Evicted, e.Message)
	w.box.evicted(e)
	return true
}

// evict takes in an eviction, unless the pod ends for another reason.
func (w *worker) evict(d Desired, e *Eviction) {
	if e == nil || d.Ending() || w.memory.Evicted != nil || w.memory.Finished || status.Terminal(w.memory.Status.Phase) {
		return
	}
	w.memory.Evicted = &status.Waiting{Reason: events.Evicted, Message: e.Message}
	w.memory.Hurried, w.memory.Disruption = true, e.Disruption
}
