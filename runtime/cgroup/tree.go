// Package cgroup keeps the cgroups of pods: it makes them with their limits, reads what they use, kills and removes
// them. Containers' own cgroups lie below and are made by runc.
//
// Version 2, version 1 and the hybrid of both are the same to the caller: a name below the tree's parent. The
// invariant: nothing outside the parent is changed, except that on version 2 the controllers which pods need are
// enabled on the way down to it.
//
//	tree, err := cgroup.Open("/bramble-1a2b3c")
//	err = tree.Create("pod1", cgroup.Resources{CPUShares: 512, Memory: 64 << 20})
//	stats, err := tree.Stats("pod1")
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"bramble.dev/internal/mountinfo"
)

// Tree is the part of the cgroup file systems below one parent.
type Tree struct {
	parent  string            // absolute, as runc wants it: below each mount point
	unified string            // mount point of version 2 when that is what the machine uses, else ""
	mounts  map[string]string // version 1: controller -> mount point
	dirs    []string          // every distinct mount point that holds cgroups of ours
}

// wanted are the controllers that pods use.
var wanted = []string{"cpu", "cpuset", "memory", "pids", "io", "hugetlb"}

// Open finds the cgroup file systems and makes the parent.
func Open(parent string) (*Tree, error) {
	mounts, err := mountinfo.Self()
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	t, err := find(mounts)
	if err != nil {
		return nil, err
	}
	t.parent = filepath.Clean("/" + parent)
	if t.parent == "/" {
		return nil, errors.New("find cgroups: the parent of pods' cgroups must not be the root")
	}
	if t.unified != "" {
		return t, t.enable(t.parent)
	}
	return t, nil
}

func find(mounts []mountinfo.Mount) (*Tree, error) {
	t := &Tree{mounts: map[string]string{}}
	unified := ""
	for _, m := range mounts {
		switch dir := m.At; m.Kind {
		case "cgroup2":
			if unified == "" || len(dir) < len(unified) {
				unified = dir
			}
		case "cgroup":
			for _, option := range m.Options {
				if _, have := t.mounts[option]; !have && option != "rw" && option != "ro" {
					t.mounts[option] = dir
				}
			}
			t.dirs = append(t.dirs, dir)
		}
	}
	_, v1 := t.mounts["memory"]
	_, pids := t.mounts["pids"]
	switch {
	case v1 || pids:
		if unified != "" {
			t.dirs = append(t.dirs, unified)
		}
	case unified != "":
		t.unified, t.mounts, t.dirs = unified, nil, []string{unified}
	default:
		return nil, errors.New("find cgroups: none is mounted; mount cgroup2 at /sys/fs/cgroup")
	}
	slices.Sort(t.dirs)
	t.dirs = slices.Compact(t.dirs)
	return t, nil
}

// Unified says whether the machine uses cgroup version 2 alone.
func (t *Tree) Unified() bool { return t.unified != "" }

// Has says whether a controller can be used ("memory", "pids", "cpu").
func (t *Tree) Has(controller string) bool {
	if t.unified == "" {
		_, ok := t.mounts[controller]
		return ok
	}
	b, _ := os.ReadFile(filepath.Join(t.unified, t.parent, "cgroup.controllers"))
	return slices.Contains(strings.Fields(string(b)), controller)
}

// Path is the cgroup's path as runc takes it.
func (t *Tree) Path(name string) string { return filepath.Join(t.parent, name) }

func (t *Tree) file(controller, name, file string) string {
	if t.unified != "" {
		return filepath.Join(t.unified, t.parent, name, file)
	}
	mount, ok := t.mounts[controller]
	if !ok {
		return ""
	}
	return filepath.Join(mount, t.parent, name, file)
}

// OOMFile is the file in which the kernel counts the processes that it killed for memory.
func (t *Tree) OOMFile(name string) string {
	if t.unified != "" {
		return t.file("memory", name, "memory.events")
	}
	return t.file("memory", name, "memory.oom_control")
}

// Join returns the files through which the pause process enters a pod's cgroup. On version 2 it needs a leaf, because
// a cgroup whose children have controllers may not hold processes.
func (t *Tree) Join(name string) ([]string, error) {
	if t.unified != "" {
		leaf := t.file("", name, "pause")
		if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make cgroup: %w", err)
		}
		return []string{filepath.Join(leaf, "cgroup.procs")}, nil
	}
	var files []string
	for _, c := range []string{"memory", "pids"} {
		if f := t.file(c, name, "cgroup.procs"); f != "" {
			files = append(files, f)
		}
	}
	return files, nil
}

// enable makes a version 2 cgroup whose children may use every wanted controller that the kernel has.
func (t *Tree) enable(path string) error {
	if err := os.MkdirAll(filepath.Join(t.unified, path), 0o755); err != nil {
		return fmt.Errorf("make cgroup %s: %w", path, err)
	}
	dir := t.unified
	for _, part := range append([]string{""}, strings.Split(strings.Trim(path, "/"), "/")...) {
		dir = filepath.Join(dir, part)
		if err := delegate(dir); err != nil {
			return err
		}
	}
	return nil
}

func delegate(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read controllers of cgroup %s: %w", dir, err)
	}
	on, _ := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	for _, c := range strings.Fields(string(have)) {
		if !slices.Contains(wanted, c) || slices.Contains(strings.Fields(string(on)), c) {
			continue
		}
		file := filepath.Join(dir, "cgroup.subtree_control")
		err := write(file, "+"+c)
		if errors.Is(err, unix.EBUSY) { // a cgroup with processes may not have children with controllers
			if err = evacuate(dir); err == nil {
				err = write(file, "+"+c)
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("enable controller %s in cgroup %s: %w", c, dir, err)
		}
	}
	return nil
}

// evacuate moves the processes of a container's root cgroup into a child, as an init of the container would.
func evacuate(dir string) error {
	leaf := filepath.Join(dir, "init")
	if err := os.MkdirAll(leaf, 0o755); err != nil {
		return err
	}
	pids, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, pid := range strings.Fields(string(pids)) {
		if err := write(filepath.Join(leaf, "cgroup.procs"), pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("move process %s out of cgroup %s: %w", pid, dir, err)
		}
	}
	return nil
}

func write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// HasSwapLimit says whether swap can be limited: the kernel may be built, or started, without.
func (t *Tree) HasSwapLimit() bool {
	if t.unified == "" {
		_, err := os.Stat(filepath.Join(t.mounts["memory"], "memory.memsw.limit_in_bytes"))
		return t.mounts["memory"] != "" && err == nil
	}
	_, err := os.Stat(filepath.Join(t.unified, t.parent, "memory.swap.max"))
	return err == nil
}
