// Package nodes holds what controllers and the scheduler ask of a node's state.
//
// Invariant: a condition that a node does not have is never taken for one that holds.
//
//	if nodes.IsReady(node) {
//		...
//	}
package nodes

import corev1 "k8s.io/api/core/v1"

// Condition returns the condition of a type, or nil.
func Condition(n *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == t {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

// IsReady says that the node may be given work.
func IsReady(n *corev1.Node) bool {
	c := Condition(n, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionTrue
}
