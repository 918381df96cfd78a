// Package logs reads containers' logs in the CRI's format, as the shim writes them:
//
//	2026-01-02T15:04:05.000000000Z stdout F text
//
// A container attempt has one file, and <file>.1, <file>.2 and so on, which are older. The invariant: a reader sees
// every line once and in order, also while files are being rotated; what is not a whole line (a plug was pulled) is
// skipped.
//
//	err := logs.Read(ctx, path, logs.Options{Tail: 10, HasTail: true, Follow: true, Ended: ended}, stdout, stderr)
package logs
