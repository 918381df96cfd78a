// Package job runs pods until enough of them have succeeded.
//
// A pod carries the finalizer batch.kubernetes.io/job-tracking from its
// creation until it has been counted. It is counted in three writes: its UID
// goes into status.uncountedTerminatedPods, then its finalizer goes, and only
// when the cache shows it without one, the counter takes the UID's place. For
// an Indexed Job that succeeded in an index, the index in completedIndexes
// takes the place of both.
//
// Invariant: whatever two writes a crash falls between, every pod that ended
// is counted once. A pod that is given up (too many, or suspended) loses its
// finalizer first and is never counted. When observed and wanted agree nothing
// is written.
//
//	l := job.New(job.Inputs{...})
//	l.Run(ctx)
package job
