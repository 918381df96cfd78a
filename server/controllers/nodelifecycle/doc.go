// Package nodelifecycle says of a node that is away that it is: its conditions
// become Unknown, its taints keep new pods off it and let those go that asked
// for it, and its pods count as not ready. When it is back its own report
// (written by dispatch) says the contrary, and the taints go. What people advertise
// in a node's capacity becomes allocatable here. What happens to a node (it is back, was rebooted, is cordoned, runs
// short) is told in events.
//
// Invariant: a node that is present is never marked; taints that others set are
// kept. Nobody's pod is deleted here.
//
//	l := nodelifecycle.New(nodelifecycle.Inputs{Presence: dispatcher, ...})
//	l.Run(ctx)
package nodelifecycle
