// Package garbage deletes what belonged to owners that are gone, and holds
// owners back whose deletion waits for what belongs to them.
//
// Invariant: an object is deleted only when the API, asked at that moment, says
// that none of its owners exists (or that all wait for it), and under its UID
// and version, so that one that was saved meanwhile is spared.
//
// The graph holds only objects that have an owner, are one, or are being
// deleted with a finalizer of ours: ten thousand ConfigMaps cost nothing. It is
// fed from the store's changes, and for what other servers have (APIServices)
// from a watch of the API, and reads no more of an object than its metadata.
//
//	c := garbage.New(garbage.Inputs{...})
//	c.Run(ctx)
package garbage
