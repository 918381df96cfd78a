// Package deployment rolls pods over from one template to the next by scaling
// the ReplicaSets of a Deployment, one for each template it has had.
//
// Invariant: a plan never makes the ReplicaSets ask for more pods than replicas
// and maxSurge allow, and never takes an available pod away when fewer than
// replicas less maxUnavailable would be left. The plan of a state that is as
// wanted is empty.
//
//	l := deployment.New(deployment.Inputs{...})
//	l.Run(ctx)
package deployment
