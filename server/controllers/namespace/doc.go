// Package namespace empties a namespace that is being deleted and lets it go
// when nothing is left.
//
// Invariant: the finalizer is removed only after every resource that discovery
// knows was seen to be empty; pods go first, because what they use must stay as
// long as they run.
//
//	l := namespace.New(namespace.Inputs{...})
//	l.Run(ctx)
//
// Tests: server/namespace_test.go
package namespace
