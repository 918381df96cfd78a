package podgc

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
	"bramble.dev/server/controllers/nodes"
	"bramble.dev/server/controllers/pods"
)

// absent is what is known of the node of a pod that was asked to go.
type absent struct {
	node   *corev1.Node
	online bool
	held   time.Time // when the node may last have been given a sign of life
}

// ended says whether a pod that was asked to go has ended without its node telling so, or when it may be looked at again (0:
// not before something changes): a person has said that the node is out of service, or the node's own fence has passed.
func ended(pod *corev1.Pod, a absent, now time.Time) (ended bool, in time.Duration) {
	if pod.DeletionTimestamp == nil {
		return false, 0
	}
	if outOfService(a.node) {
		return true, 0
	}
	kill, fenced := link.FenceTold(pod.Status.Conditions)
	if !fenced || a.online {
		return false, 0
	}
	left := link.FencePassed(kill) - now.Sub(a.held)
	return left <= 0, max(left, 0)
}

func outOfService(node *corev1.Node) bool {
	tainted := slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
	return tainted && !nodes.IsReady(node)
}

// leaving are the pods of a node that were asked to go.
func leaving(all []*corev1.Pod) []*corev1.Pod {
	return pods.Filter(all, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
}
