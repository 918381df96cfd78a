package hosts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// cgroupOf makes the host's group in every hierarchy and moves the process there; from inside, this group is the root.
func cgroupOf(lab, host string, pid int) error {
	hierarchies, err := cgroupHierarchies()
	if err != nil {
		return err
	}
	for _, h := range hierarchies {
		dir := h.path
		for _, part := range []string{lab, host} {
			if h.kind == "cgroup2" {
				enableControllers(dir)
			}
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("make the host's cgroup: %w", err)
			}
			if h.kind == "cgroup" {
				if err := inheritCpuset(dir); err != nil {
					return err
				}
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("enter the host's cgroup: %w", err)
		}
	}
	return nil
}

// enableControllers hands all that version 2 has to the children. Which of them refuse does not matter here: the
// agent in the host says what it lacks.
func enableControllers(dir string) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	for _, c := range strings.Fields(string(data)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0)
	}
}

// inheritCpuset: a new group of version 1's cpuset has no processor and no memory node, and takes no process.
func inheritCpuset(dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || strings.TrimSpace(string(own)) != "" {
			continue
		}
		parent, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if err != nil {
			return fmt.Errorf("read the parent's cpuset: %w", err)
		}
		if len(strings.TrimSpace(string(parent))) == 0 {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), parent, 0); err != nil {
			return fmt.Errorf("set %s of %s: %w", name, dir, err)
		}
	}
	return nil
}

// leaf is where a host's own programs are on version 2: from inside, the host's group is the root, but to the kernel it
// is one like any other, and those that hold processes cannot hand controllers to their children.
const leaf = "/sys/fs/cgroup/init"

// enterLeaf moves the holder there, seen from inside.
func enterLeaf() error {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the host's leaf cgroup: %w", err)
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("enter the host's leaf cgroup: %w", err)
	}
	return nil
}

// removeCgroups takes away the lab's groups, from the leaves up. Processes that were just killed leave a little later.
func removeCgroups(lab string) error {
	hierarchies, err := cgroupHierarchies()
	if err != nil {
		return err
	}
	var last error
	for range 100 {
		last = nil
		for _, h := range hierarchies {
			if err := removeTree(filepath.Join(h.path, lab)); err != nil {
				last = err
			}
		}
		if last == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("remove the lab's cgroups: %w", last)
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sweepCgroups removes the groups of labs whose maker was killed: their names carry its process id.
func sweepCgroups() {
	hierarchies, _ := cgroupHierarchies()
	for _, h := range hierarchies {
		left, _ := filepath.Glob(filepath.Join(h.path, labPrefix+"*"))
		for _, dir := range left {
			pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), labPrefix), "-")
			if _, err := os.Stat("/proc/" + pid); errors.Is(err, fs.ErrNotExist) {
				_ = removeTree(dir)
			}
		}
	}
}
