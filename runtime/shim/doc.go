// Package shim starts and speaks with bramble-shim, the small C program that is the parent of a pod's containers.
// Its sources lie here too (shim.h names the parts), and protocol.md says what goes over its socket.
//
// The invariant: everything that must outlive the agent is the shim's (standard streams, logs, exit codes) and
// everything that can be decided later, or by a newer agent, is not. The shim runs the command line that it is
// given, so that a new agent can use a new runc, or other flags, through a shim that an old agent started.
//
//	shim.Start(ctx, shim.Config{Program: "bin/bramble-shim", Pause: "bin/bramble-pause", Dir: run, Empty: empty})
//	c := shim.Client{Dir: run}
//	task, err := c.Run(ctx, shim.Task{ID: id, PidFile: pid, Log: log, Args: []string{"/bin/runc", "run", ...}})
package shim
