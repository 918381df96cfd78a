package shim

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// Config describes a pod's shim and pause process.
type Config struct {
	Program, Pause string   // executables
	Dir            string   // existing folder, on a tmpfs if possible; the socket is made in it
	Empty          string   // an empty folder: the pause process' root
	NetNS          string   // path; "" is the network of the caller
	Hostname       string   // set when UTS is
	IPC, UTS, PID  bool     // namespaces of the pod's own
	CgroupProcs    []string // cgroup.procs files that the pause process enters
	Sysctls        []string // "file=value"
	Wishes         []string // the same, where the kernel has it
}

func (c Config) args() []string {
	own := ""
	for flag, on := range map[string]bool{"i": c.IPC, "u": c.UTS, "p": c.PID} {
		if on {
			own += flag
		}
	}
	args := []string{"-d" + c.Dir, "-e" + c.Empty, "-p" + c.Pause, "-u" + own}
	for _, p := range c.CgroupProcs {
		args = append(args, "-g"+p)
	}
	if c.NetNS != "" {
		args = append(args, "-n"+c.NetNS)
	}
	if c.UTS && c.Hostname != "" {
		args = append(args, "-h"+c.Hostname)
	}
	for _, s := range c.Sysctls { // after the network namespace: most are its
		args = append(args, "-s"+s)
	}
	for _, s := range c.Wishes {
		args = append(args, "-S"+s)
	}
	return args
}

// Start starts a shim with its pause process, and returns when both stand. The shim is no child of ours.
func Start(ctx context.Context, c Config) error {
	cmd := exec.CommandContext(ctx, c.Program, c.args()...)
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.Dir = "/"
	if err := cmd.Run(); err != nil {
		if why := strings.TrimSpace(said.String()); why != "" {
			return fmt.Errorf("start the pod's shim: %s", why)
		}
		return fmt.Errorf("start the pod's shim %s: %w", c.Program, err)
	}
	return nil
}
