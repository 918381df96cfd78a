// Package disruption keeps the status of PodDisruptionBudgets, from which the
// API decides whether a pod may be evicted.
//
// The API writes into the same status: it takes one from disruptionsAllowed
// and names the pod in disruptedPods. Both sides write only over the version
// that they have read, so that no eviction is allowed twice.
//
// Invariant: what cannot be computed allows no disruption. When observed and
// status agree nothing is written.
//
//	l := disruption.New(disruption.Inputs{...})
//	l.Run(ctx)
package disruption
