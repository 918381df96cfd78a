// Package persistentvolume binds claims to volumes: to one that is there and
// fits best, or to one that it makes, if the claim's class is of a provisioner
// of ours. It also grows volumes, and gives back those whose claim is gone.
//
// Invariant: a claim and a volume name each other or are not bound; a claim is
// never bound to two volumes, nor a volume to two claims. Each reconcile does
// the one next write of its plan and is called again by what that changed, so
// that a crash between two writes is like any other moment. What is in a volume
// is removed only after its claim is gone, and only if its policy says so; the
// volume stays until a node has said that it did.
//
//	l := persistentvolume.New(persistentvolume.Inputs{...})
//	l.Run(ctx)
package persistentvolume
