package main

import (
	"os/exec"
	"runtime"
)

// runLocked runs the command from a thread that lives as long as it: Pdeathsig is sent when the thread that started
// the child ends, not the process (golang/go#27505).
func runLocked(c *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return c.Run()
}
