// Package nodes holds what controllers and the scheduler ask of nodes: their conditions, and whether they are connected.
//
// Invariant: a condition that a node does not have is never taken for one that holds.
//
//	if nodes.IsReady(node) {
//		...
//	}
//
// Tests: server/controllers/nodelifecycle/plan_test.go
package nodes

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

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

// Presence knows which nodes have a link to the server.
type Presence interface {
	// Online says whether the node is connected and since when that is so; for a
	// node that was never seen, since the server started.
	Online(node string) (online bool, since time.Time)
	// Held is when the node may last have been given a sign of life (link.Fence).
	Held(node string) time.Time
	// Changes gives the names of nodes whose presence changed.
	Changes() <-chan string
}
