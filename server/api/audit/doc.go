// Package audit writes down who asked the API for what, in the format of upstream's audit log (audit.k8s.io/v1): in a file,
// a line an event, or to a receiver, or both. It is off unless it is asked for.
//
// Invariants: a policy of upstream's form decides what is written, and without one it is who changed what, without what was sent.
// Events are written in groups, so that a card is not written for each: a pulled plug takes the last seconds. A full disk
// stops no request: events are lost, and the server's log says so once.
//
// Upstream: https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/
//
//	l, err := audit.Open(audit.Options{Path: "/var/log/bramble/audit.log"}, log)
//	h = l.Requests(h, longRunning)
//	defer l.Close()
package audit
