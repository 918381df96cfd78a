package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Kill sends SIGKILL to every process in the cgroup and below it.
func (t *Tree) Kill(name string) error {
	if t.unified != "" {
		err := write(t.file("", name, "cgroup.kill"), "1") // Linux 5.14
		if err == nil {
			return nil
		}
	}
	for _, dir := range t.dirs {
		pids, err := processes(filepath.Join(dir, t.parent, name))
		if err != nil {
			return fmt.Errorf("list processes of cgroup %s: %w", name, err)
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill process %d of cgroup %s: %w", pid, name, err)
			}
		}
	}
	return nil
}

// processes lists the processes of a folder of cgroups.
func processes(dir string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return ignoreGone(err)
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return ignoreGone(err)
		}
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids, err
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// Remove removes a cgroup and everything below it, after its processes have been killed. It waits for processes that
// are still dying until ctx is done. The name "" removes the parent.
func (t *Tree) Remove(ctx context.Context, name string) error {
	var failed []error
	for _, dir := range t.dirs {
		if err := t.removeAll(ctx, filepath.Join(dir, t.parent, name), name); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

func (t *Tree) removeAll(ctx context.Context, dir, name string) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := removeTree(dir)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		if err := t.Kill(name); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: %w: %w", name, err, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// removeTree removes the folders from the bottom up; the files in them are the kernel's.
func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	entries, readErr := os.ReadDir(dir)
	if readErr != nil {
		return ignoreGone(readErr)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	err = unix.Rmdir(dir)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
