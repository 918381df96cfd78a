package dispatch

import (
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
)

// What a node said is written again also when somebody contradicts it while the node is there. That is nodelifecycle, which
// decided while the node was away: when many come back together, its write may follow what was written on the return, and
// the node does not repeat itself.

func (d *Dispatcher) nodeContradicted(x cache.Change[corev1.Node]) {
	if x.New != nil && nodeReady(x.New) == corev1.ConditionUnknown {
		d.again(x.New.Name)
	}
}

// podContradicted: it is said not to be ready, and nothing else of it changed.
func (d *Dispatcher) podContradicted(x cache.Change[corev1.Pod]) {
	if x.Old == nil || x.New == nil || x.New.Spec.NodeName == "" {
		return
	}
	if podIs(x.Old, corev1.PodReady) && !podIs(x.New, corev1.PodReady) && podIs(x.New, corev1.ContainersReady) {
		d.again(x.New.Spec.NodeName)
	}
}

// again writes what a node reported once more, if it is there; if not, that is done when it is back.
func (d *Dispatcher) again(name string) {
	n := d.node(name)
	if n == nil || !n.isOnline() {
		return
	}
	n.mu.Lock()
	n.renew = true
	n.mu.Unlock()
	poke(n.work)
}

func nodeReady(n *corev1.Node) corev1.ConditionStatus {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return ""
}

func podIs(p *corev1.Pod, what corev1.PodConditionType) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == what {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
