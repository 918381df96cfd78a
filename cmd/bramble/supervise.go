package main

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// restartAfter is how long a supervised agent that ended stays down: it doubles with each early end, up to the last.
const (
	restartAfter    = 500 * time.Millisecond
	restartAfterMax = 30 * time.Second
	healthyAfter    = time.Minute
	stopPatience    = 20 * time.Second
)

// program is what is supervised.
type program struct {
	path string
	args []string
	env  []string // beside this process' own
}

// supervise keeps the command running until ctx ends, then asks it to stop and waits. The pods that it runs are not
// its children and stay.
func supervise(ctx context.Context, log *slog.Logger, p program) error {
	wait := restartAfter
	for {
		began := time.Now()
		c := exec.CommandContext(ctx, p.path, p.args...)
		c.Env = append(os.Environ(), p.env...)
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
		c.WaitDelay = stopPatience
		// The agent must not outlive a server that was killed, or a restarted one would start a second beside it.
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
		err := runLocked(c)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > healthyAfter {
			wait = restartAfter
		}
		log.Error("the agent ended and is started again", "err", err, "after", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
		wait = min(2*wait, restartAfterMax)
	}
}
