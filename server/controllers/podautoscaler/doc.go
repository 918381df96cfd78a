// Package podautoscaler changes the size of workloads with what their pods use
// (HorizontalPodAutoscaler, version 2).
//
// An autoscaler is looked at every fifteen seconds, and when its spec changes.
// Without one there is no timer, and no node is asked for anything. A server of
// metrics that is silent delays those alone that ask it.
//
// Invariant: a size outside minReplicas and maxReplicas is never wanted; what
// is not known about pods never makes a workload larger when they might be
// idle, nor smaller when they might be busy.
//
//	c := podautoscaler.New(podautoscaler.Inputs{...})
//	c.Run(ctx)
package podautoscaler
