// Package daemonset keeps one pod on every node that a DaemonSet is for. The
// scheduler binds them as any others: an affinity names each one's node.
//
// Invariant: a node that is not wanted gets no pod, and a wanted one no second
// but for a surge. A rollout takes no available pod away when more than
// maxUnavailable nodes would be without, and with a surge only when another is
// available in its place. A failed pod is replaced later each time. The plan of
// a state that is as wanted is empty.
//
//	l := daemonset.New(daemonset.Inputs{...})
//	l.Run(ctx)
package daemonset
