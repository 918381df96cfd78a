package bridge

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"bramble.dev/mesh/internal/kernel"
)

// mounted says whether path is a namespace and not just the file that one was mounted on.
func mounted(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Type == unix.NSFS_MAGIC
}

// makeNetNS makes a network namespace and mounts it at path, unless there is one.
func makeNetNS(path string) error {
	if mounted(path) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	f.Close()
	done := make(chan error, 1)
	go func() { done <- newNetNS(path) }()
	return <-done
}

// newNetNS runs on a goroutine of its own, so that a thread that cannot return ends with it.
func newNetNS(path string) error {
	runtime.LockOSThread()
	before, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer before.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("unshare: %w", err)
	}
	err = podSysctls()
	if merr := unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, ""); merr != nil {
		err = errors.Join(err, fmt.Errorf("mount on %s: %w", path, merr))
	}
	if netns.Set(before) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// podSysctls are what containers expect of their namespace: ports below 1024 and ping without
// privileges, as containerd and Docker give them, and no belief in redirects (see the package comment).
func podSysctls() error {
	var errs []error
	for _, s := range [][2]string{
		{"ipv4/ip_unprivileged_port_start", "0"},
		{"ipv4/ping_group_range", "0 2147483647"},
		{"ipv4/conf/all/accept_redirects", "0"},
		{"ipv4/conf/default/accept_redirects", "0"},
	} {
		errs = append(errs, kernel.Sysctl(s[0], s[1]))
	}
	return errors.Join(errs...)
}

func removeNetNS(path string) error {
	for mounted(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
