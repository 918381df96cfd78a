package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"bramble.dev/internal/mountinfo"
)

func TestFind(t *testing.T) {
	const base = "22 1 0:20 / /sys rw - sysfs sysfs rw\n"
	for _, tt := range []struct{ name, info, unified, memory, dirs, err string }{
		{"v2", base + "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n", "/sys/fs/cgroup", "", "/sys/fs/cgroup", ""},
		{"v1", base + "31 22 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n32 22 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n",
			"", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu,cpuacct /sys/fs/cgroup/memory", ""},
		{"hybrid", base + "31 22 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n33 22 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			"", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory /sys/fs/cgroup/unified", ""},
		{"systemd's own v1 beside v2", base + "31 22 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n33 22 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
			"/sys/fs/cgroup", "", "/sys/fs/cgroup", ""},
		{"none", base, "", "", "", "none is mounted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mounts, err := mountinfo.Parse(strings.NewReader(tt.info))
			if err != nil {
				t.Fatal(err)
			}
			tree, err := find(mounts)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil || tree.unified != tt.unified || tree.mounts["memory"] != tt.memory || strings.Join(tree.dirs, " ") != tt.dirs {
				t.Errorf("%v, %+v", err, tree)
			}
		})
	}
}

func TestSettings(t *testing.T) {
	r := Resources{CPUShares: 512, CPUQuota: 50000, Memory: 1 << 20, Pids: 10}
	if got, want := fmt.Sprint(r.settings(false)), "[{cpu cpu.shares 512} {cpu cpu.cfs_period_us 100000} {cpu cpu.cfs_quota_us 50000} {memory memory.limit_in_bytes 1048576} {pids pids.max 10}]"; got != want {
		t.Errorf("v1: %s", got)
	}
	if got, want := fmt.Sprint(r.settings(true)), "[{cpu cpu.weight 20} {cpu cpu.max 50000 100000} {memory memory.max 1048576} {pids pids.max 10}]"; got != want {
		t.Errorf("v2: %s", got)
	}
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 39, 262144: 10000, 1 << 40: 10000} {
		if got := Weight(shares); got != want {
			t.Errorf("weight of %d: %d", shares, got)
		}
	}
}

// fakeV2 is a folder that looks like a version 2 hierarchy, as far as files go.
func fakeV2(t *testing.T) *Tree {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"", "b", "b/pod1", "b/pod1/pause"} {
		for file, text := range map[string]string{"cgroup.controllers": "cpu io memory pids rdma\n", "cgroup.subtree_control": "memory\n", "cgroup.procs": "", "cpu.max": "", "cpu.weight": "",
			"memory.max": "", "pids.max": "", "memory.swap.max": "", "cpu.stat": "usage_usec 1500\nuser_usec 1\n", "memory.current": "5000\n", "memory.stat": "anon 1000\ninactive_file 2000\npgfault 7\n",
			"pids.current": "3\n"} {
			if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, d, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return &Tree{parent: "/b", unified: dir, dirs: []string{dir}}
}

func TestUnified(t *testing.T) {
	tree := fakeV2(t)
	if err := tree.Create("pod1", Resources{CPUShares: 1024, CPUQuota: 1000, Memory: 4096}); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"b/pod1/cpu.weight": "39", "b/pod1/cpu.max": "1000 100000", "b/pod1/memory.max": "4096", "cgroup.subtree_control": "+pidsy\n", "b/cgroup.subtree_control": "+pidsy\n"} {
		b, err := os.ReadFile(filepath.Join(tree.unified, file))
		if err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", file, b, err)
		}
	}
	procs, err := tree.Join("pod1")
	if err != nil || len(procs) != 1 || procs[0] != filepath.Join(tree.unified, "b/pod1/pause/cgroup.procs") {
		t.Errorf("join: %v, %v", procs, err)
	}
	s, err := tree.Stats("pod1")
	s.Time = time.Time{}
	if want := (Stats{CPU: 1500 * time.Microsecond, Memory: 5000, WorkingSet: 3000, RSS: 1000, Pids: 3}); err != nil || !reflect.DeepEqual(s, want) {
		t.Errorf("stats: %+v, %v", s, err)
	}
	if !tree.Has("memory") || tree.Has("hugetlb") || !tree.HasSwapLimit() {
		t.Error("controllers")
	}
	if names, err := tree.Names(); err != nil || strings.Join(names, " ") != "pod1" {
		t.Errorf("names: %v, %v", names, err)
	}
	if _, err := tree.Stats("none"); err == nil {
		t.Error("use of a cgroup that is not there")
	}
}

// TestReal makes, fills and removes a cgroup of this machine.
func TestReal(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("cgroups need root")
	}
	parent := fmt.Sprintf("/bt-cgroup-%d", os.Getpid())
	tree, err := Open(parent)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := tree.Remove(t.Context(), ""); err != nil {
			t.Error(err)
		}
	}()
	if err := tree.Create("pod", Resources{CPUShares: 100, CPUQuota: 50000, Memory: 64 << 20, Pids: 50}); err != nil {
		t.Fatal(err)
	}
	files, err := tree.Join("pod")
	if err != nil {
		t.Fatal(err)
	}
	sleep := exec.Command("sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := write(f, fmt.Sprint(sleep.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	if empty, err := tree.Empty("pod"); err != nil || empty {
		t.Errorf("empty: %v, %v", empty, err)
	}
	if s, err := tree.Stats("pod"); err != nil || s.Pids != 1 {
		t.Errorf("stats: %+v, %v", s, err)
	}
	done := make(chan error)
	go func() { done <- sleep.Wait() }()
	if err := tree.Kill("pod"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("it ended with %v", err)
	}
	if err := tree.Remove(t.Context(), "pod"); err != nil {
		t.Fatal(err)
	}
	if names, err := tree.Names(); err != nil || len(names) != 0 {
		t.Errorf("left: %v, %v", names, err)
	}
	if err := tree.Remove(t.Context(), "pod"); err != nil {
		t.Errorf("removed twice: %v", err)
	}
}
