// Package emulated lets tests that start their own program again run where an emulator carries them (qemu-user, by
// scripts/cross-build --test): the kernel cannot start a program of another processor by itself.
//
//	cmd := emulated.Self("-test.run=TestCrash")
package emulated

import (
	"os"
	"os/exec"
)

// By is the emulator that runs this program; empty: none does.
func By() string { return os.Getenv("BRAMBLE_EMULATOR") }

// Self is the command that runs this program again.
func Self(args ...string) *exec.Cmd {
	if emulator := By(); emulator != "" {
		return exec.Command(emulator, append([]string{os.Args[0]}, args...)...)
	}
	return exec.Command(os.Args[0], args...)
}
