package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"bramble.dev/internal/mountinfo"
)

// Mount makes a container's root file system from layers, the lowest first, and returns its path.
func (s *Store) Mount(id string, layers []string) (string, error) {
	dir := filepath.Join(s.snapshots(), id)
	for _, d := range []string{"", "u", "w", "m"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return "", fmt.Errorf("make snapshot: %w", err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "u"), 0o755); err != nil { // the container's /, whatever the umask
		return "", fmt.Errorf("make snapshot: %w", err)
	}
	lower := stack(layers)
	if len(lower) == 0 {
		lower = []string{empty}
	}
	up := "../snapshots/" + id
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/u,workdir=%s/w", strings.Join(lower, ":"), up, up)
	target := filepath.Join(dir, "m")
	if err := s.overlay(target, options); err != nil {
		_ = os.RemoveAll(dir)
		return "", fmt.Errorf("mount snapshot %s: %w", id, err)
	}
	return target, nil
}

const empty = "../empty"

// stack are the folders of layers, the highest first. Relative paths: an option string has one page, and an image may have
// 127 layers.
func stack(layers []string) []string {
	lower := make([]string, 0, len(layers)+1)
	for i := len(layers) - 1; i >= 0; i-- {
		if dir := layers[i] + files; !slices.Contains(lower, dir) { // a layer that comes again hides itself below
			lower = append(lower, dir)
		}
	}
	return lower
}

const files = "/fs"

// Show mounts layers, the lowest first, at a folder that is there: to be read, and nothing in them to be run.
func (s *Store) Show(target string, layers []string) error {
	// At the bottom an empty one, because an overlay that cannot be written wants two.
	lower := append(stack(layers), empty)
	if len(lower) == 1 {
		lower = append(lower, empty)
	}
	options := "lowerdir=" + strings.Join(lower, ":")
	if err := mountIn(s.layers(), target, options, unix.MS_RDONLY|unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV); err != nil {
		return fmt.Errorf("show an image at %s: %w", target, err)
	}
	return nil
}

// Shown lists what Show has mounted: the layers of each, the highest first. The kernel is asked, so that it is true whoever
// mounted it, and whatever was unmounted since.
func Shown() ([][]string, error) {
	mounts, err := mountinfo.Self()
	if err != nil {
		return nil, fmt.Errorf("list images that are shown: %w", err)
	}
	var all [][]string
	for _, m := range mounts {
		writable := slices.ContainsFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "upperdir=") })
		if m.Kind != "overlay" || writable {
			continue
		}
		for _, option := range m.Options {
			lower, ok := strings.CutPrefix(option, "lowerdir=")
			if !ok {
				continue
			}
			var layers []string
			for _, dir := range strings.Split(lower, ":") {
				if name, ok := strings.CutSuffix(dir, files); ok && !strings.Contains(name, "/") {
					layers = append(layers, name)
				}
			}
			all = append(all, layers)
		}
	}
	return all, nil
}

func (s *Store) overlay(target, options string) error {
	s.mu.Lock()
	volatile := s.volatile
	s.mu.Unlock()
	if volatile {
		// What a container writes outside volumes dies with it, so it need never be waited for: no sync of the
		// card when it is unmounted, nor when a program calls fsync.
		err := mountIn(s.layers(), target, options+",volatile", 0)
		if !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	if err := mountIn(s.layers(), target, options, 0); err != nil {
		return err
	}
	s.mu.Lock()
	s.volatile = false
	s.mu.Unlock()
	return nil
}

// mountIn mounts an overlay whose options are relative to dir. The thread that changed its folder is not used again.
func mountIn(dir, target, options string, flags uintptr) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- err
			return
		}
		if err := unix.Chdir(dir); err != nil {
			done <- err
			return
		}
		done <- unix.Mount("overlay", target, "overlay", flags, options)
	}()
	return <-done
}

// Written is the folder with what a container has written into its root file system.
func (s *Store) Written(id string) string { return filepath.Join(s.snapshots(), id, "u") }

// Unmount removes a container's root file system. It is no error if there is none.
func (s *Store) Unmount(id string) error {
	dir := filepath.Join(s.snapshots(), id)
	if err := detach(filepath.Join(dir, "m")); err != nil {
		return fmt.Errorf("unmount snapshot %s: %w", id, err)
	}
	if err := removeAll(dir); err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	return nil
}

func detach(target string) error {
	for range 16 { // in case it was mounted more than once
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Snapshots lists the containers that have a root file system here, mounted or not.
func (s *Store) Snapshots() ([]string, error) {
	entries, err := os.ReadDir(s.snapshots())
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, nil
}
