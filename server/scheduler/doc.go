// Package scheduler binds pods to nodes. Filters refuse nodes and say why,
// scores choose among the rest, and what nothing fits is told in the pod's
// condition and an event, in upstream's words.
//
// Invariant: a pod is bound only to a node that every filter accepts with all
// pods that are bound or about to be; a decision is a pure function of the pod
// and the nodes as they are known.
//
// The queue holds each waiting pod once. Pods that fit nowhere wait until
// something changes that may help, with a back-off of one to ten seconds.
//
//	err := scheduler.Run(ctx, scheduler.Config{Client: client, Caches: caches, Logger: log})
package scheduler
