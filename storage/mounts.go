package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sort"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bramble.dev/internal/mountinfo"
)

// mountPoint is a mount with what is to be known of it here.
type mountPoint struct{ mountinfo.Mount }

// mountPoints lists all, in the order in which things were mounted.
func mountPoints() ([]mountPoint, error) {
	all, err := mountinfo.Self()
	out := make([]mountPoint, len(all))
	for i, m := range all {
		out[i] = mountPoint{m}
	}
	return out, err
}

// within tells whether a path is a folder or something in it.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// mountsBelow lists the mount points at and below a folder, the deepest first.
func mountsBelow(dir string) ([]string, error) {
	all, err := mountPoints()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, m := range all {
		if within(m.At, dir) {
			found = append(found, m.At)
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(found)))
	return found, nil
}

// mountOf is the mount on which a path lies; the path itself is not looked at.
func mountOf(path string) (mountPoint, error) {
	all, err := mountPoints()
	if err != nil {
		return mountPoint{}, err
	}
	var found mountPoint
	for _, m := range all {
		if within(path, m.At) && len(m.At) >= len(found.At) { // what was mounted later hides what was before
			found = m
		}
	}
	return found, nil
}

func isMountPoint(dir string) (bool, error) {
	below, err := mountsBelow(dir)
	if err != nil {
		return false, err
	}
	for _, m := range below {
		if m == dir {
			return true, nil
		}
	}
	return false, nil
}

// mayReachSwap is set once the kernel has refused to keep a tmpfs out of swap (those before 6.4 do, each time with a line
// in the kernel's log).
var mayReachSwap atomic.Bool

// mountTmpfs mounts memory at dir unless it is there already. A size of 0 is the kernel's default, half of the memory; the mode is
// the kernel's too, as upstream's: everyone may write, and remove what is their own (drwxrwxrwt).
func mountTmpfs(dir string, size int64) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if there, err := isMountPoint(dir); err != nil || there {
		return err
	}
	var options []string
	if size > 0 {
		options = append(options, fmt.Sprintf("size=%d", size))
	}
	mount := func(more ...string) error {
		return unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, strings.Join(append(options, more...), ","))
	}
	err := error(unix.EINVAL)
	if !mayReachSwap.Load() {
		err = mount("noswap")
	}
	if err == unix.EINVAL {
		if err = mount(); err == nil {
			mayReachSwap.Store(true)
		}
	}
	if err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	return nil
}

// removeAll removes a folder, but never what is mounted in it: an unmount that was missed must not cost data.
func removeAll(dir string) error {
	left, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%s is still mounted", left[0])
	}
	return os.RemoveAll(dir)
}

// makeDir makes a folder with the mode, whatever the umask.
func makeDir(dir string, mode fs.FileMode) error {
	if err := os.Mkdir(dir, mode); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}

// What a pod's fsGroup may do in a volume, as kubelet has it: write where the pod may, read where content is shown to it.
const (
	groupWrites fs.FileMode = 0o660
	groupReads  fs.FileMode = 0o440
)

// own gives a tree to a group; new files inherit it. Another pod may have the volume too and exchange a folder for a link while this
// goes on, so nothing is done through a path that could lead out of it (os.Root).
func own(dir string, group int64, may fs.FileMode) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := ownOne(root, ".", group, may); err != nil {
		return err
	}
	return ownBelow(root, group, may)
}

func ownBelow(root *os.Root, group int64, may fs.FileMode) error {
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	for _, e := range entries {
		err := ownOne(root, e.Name(), group, may)
		if err == nil && e.IsDir() {
			var below *os.Root
			if below, err = root.OpenRoot(e.Name()); err == nil {
				err = errors.Join(ownBelow(below, group, may), below.Close())
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // it was removed meanwhile
			return err
		}
	}
	return nil
}

func ownOne(root *os.Root, name string, group int64, may fs.FileMode) error {
	if err := root.Lchown(name, -1, int(group)); err != nil {
		return err
	}
	info, err := root.Lstat(name)
	if err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return err
	}
	mode := info.Mode() | may
	if info.IsDir() {
		mode |= 0o110 | fs.ModeSetgid
	}
	return root.Chmod(name, mode)
}
