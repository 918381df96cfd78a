// Package replicaset keeps as many pods running as a ReplicaSet says. The same
// engine serves ReplicationControllers, which say it in older words.
//
// Invariant: counting those that are being made, there are never more pods
// than wanted through its doing, and it never deletes more than the surplus.
// When observed and wanted agree it writes nothing.
//
//	l := replicaset.New(replicaset.Inputs{...})
//	l.Run(ctx)
package replicaset
