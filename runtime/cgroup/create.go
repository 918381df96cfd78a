package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// Resources are a pod's limits; zero means none.
type Resources struct {
	CPUShares uint64 // 1024 is one CPU's weight
	CPUQuota  int64  // microseconds in a period
	CPUPeriod uint64 // 0: 100,000
	Memory    int64  // bytes
	Pids      int64
}

type setting struct{ controller, file, value string }

func (r Resources) settings(unified bool) []setting {
	period := r.CPUPeriod
	if period == 0 {
		period = 100_000
	}
	var s []setting
	add := func(on bool, controller, v1, value1, v2, value2 string) {
		switch {
		case !on:
		case unified:
			s = append(s, setting{controller, v2, value2})
		case v1 != "":
			s = append(s, setting{controller, v1, value1})
		}
	}
	number := strconv.FormatInt
	add(r.CPUShares > 0, "cpu", "cpu.shares", number(int64(r.CPUShares), 10), "cpu.weight", number(int64(Weight(r.CPUShares)), 10))
	add(r.CPUQuota > 0, "cpu", "cpu.cfs_period_us", number(int64(period), 10), "cpu.max", fmt.Sprintf("%d %d", r.CPUQuota, period))
	if !unified {
		add(r.CPUQuota > 0, "cpu", "cpu.cfs_quota_us", number(r.CPUQuota, 10), "", "")
	}
	add(r.Memory > 0, "memory", "memory.limit_in_bytes", number(r.Memory, 10), "memory.max", number(r.Memory, 10))
	add(r.Pids > 0, "pids", "pids.max", number(r.Pids, 10), "pids.max", number(r.Pids, 10))
	return s
}

// Weight is version 2's cpu.weight for version 1's shares, by the formula that runc and Kubernetes use (KEP-2254).
func Weight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	return 1 + (shares-2)*9999/262142
}

// Create makes a cgroup with limits, or sets them anew. A limit whose controller the kernel lacks is left out: the
// agent names what is missing once, and pods run without it.
func (t *Tree) Create(name string, r Resources) error {
	if t.unified != "" {
		if err := t.enable(t.Path(name)); err != nil {
			return err
		}
	} else {
		for _, c := range []string{"memory", "pids", "cpu", "cpuacct"} {
			if dir := t.file(c, name, ""); dir != "" {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return fmt.Errorf("make cgroup: %w", err)
				}
			}
		}
	}
	return t.Set(name, r)
}

// Set writes limits into a cgroup; what is zero stays as it is.
func (t *Tree) Set(name string, r Resources) error {
	for _, s := range r.settings(t.unified != "") {
		file := t.file(s.controller, name, s.file)
		if file == "" {
			continue
		}
		if err := write(file, s.value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set %s=%s of cgroup %s: %w", s.file, s.value, name, err)
		}
	}
	return nil
}

// Names lists the cgroups directly below the parent, in any hierarchy.
func (t *Tree) Names() ([]string, error) {
	seen := map[string]bool{}
	var names []string
	for _, dir := range t.dirs {
		entries, err := os.ReadDir(filepath.Join(dir, t.parent))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list cgroups: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() && !seen[e.Name()] {
				seen[e.Name()] = true
				names = append(names, e.Name())
			}
		}
	}
	return names, nil
}
