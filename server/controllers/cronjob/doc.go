// Package cronjob makes Jobs at the times that a schedule names.
//
// The name of a Job holds the minute that it is for, so that no minute is
// served twice, whatever two writes a crash falls between. A start that was
// missed, because the server was down or the schedule suspended, is made up
// for once, for its latest time, unless startingDeadlineSeconds says that it
// is too late.
//
// Invariant: at most one Job is made for a time of the schedule, and with the
// policies Forbid and Replace none beside one that is still active. When
// nothing is due nothing is written.
//
//	l := cronjob.New(cronjob.Inputs{...})
//	l.Run(ctx)
package cronjob
