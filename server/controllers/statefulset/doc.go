// Package statefulset keeps pods that have a name, a number and claims of
// their own: web-0, web-1 and so on, one of each.
//
// Invariant: there is never a second pod of an identity, because a pod keeps
// its name until the API has lost it: one that is asked to go on a node that is
// away is waited for. Ordered sets make, delete and update one after the other,
// and only while all before it are available. The plan of a state that is as
// wanted is empty.
//
//	l := statefulset.New(statefulset.Inputs{...})
//	l.Run(ctx)
package statefulset
