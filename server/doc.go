// Package server is the control plane in one process: it opens the store, and wires the API, the controllers, the
// scheduler, the broker and the dispatcher to it.
//
// Invariant: Run returns only after all that it started has ended and the store is closed, so that whoever calls it
// may start another on the same folder at once.
//
//	err := server.Run(ctx, server.Config{DataDir: "/var/lib/bramble", Logger: log})
package server
