package check

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// board is a host in a folder.
func board(t *testing.T, files map[string]string) Host {
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Host{
		Root:         root,
		Data:         filepath.Join(root, "data"),
		Now:          func() time.Time { return time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) },
		Capabilities: func() (uint64, error) { return ^uint64(0), nil },
		Probe:        func(string) error { return nil },
		Stat: func(path string) (unix.Statfs_t, error) { // a card of 32 GiB, and no data folder yet
			_, err := os.Stat(path)
			return unix.Statfs_t{Bsize: 4096, Blocks: 8 << 20, Bavail: 2 << 20, Files: 1000, Ffree: 900}, err
		},
	}
}

// listens is the kernel's table with a socket that takes connections at a port.
func listens(port string, inode int) string {
	return fmt.Sprintf("  sl  local_address\n   0: 00000000:%s 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 %d 1\n", port, inode)
}

// has gives a socket to a program.
func has(t *testing.T, inode int, program string) func(*Host) {
	return func(h *Host) {
		process := filepath.Join(h.Root, "proc/42")
		if err := errors.Join(os.MkdirAll(filepath.Join(process, "fd"), 0o755), os.WriteFile(filepath.Join(process, "comm"), []byte(program+"\n"), 0o644),
			os.Symlink(fmt.Sprintf("socket:[%d]", inode), filepath.Join(process, "fd/3"))); err != nil {
			t.Fatal(err)
		}
	}
}

func disk(change func(*unix.Statfs_t)) func(*Host) {
	return func(h *Host) {
		stat := h.Stat
		h.Stat = func(path string) (unix.Statfs_t, error) {
			st, err := stat(path)
			change(&st)
			return st, err
		}
	}
}

func TestRun(t *testing.T) {
	good := map[string]string{
		"sys/fs/cgroup/cgroup.controllers":      "cpuset cpu io memory pids\n",
		"proc/sys/kernel/seccomp/actions_avail": "kill\n",
		"etc/resolv.conf":                       "nameserver 192.0.2.1\n",
		"proc/thread-self/mountinfo":            "1 1 0:2 / / rw - rootfs rootfs rw\n25 1 179:2 / / rw,relatime shared:1 - ext4 /dev/root rw\n30 25 0:5 / /run rw - tmpfs tmpfs rw\n",
	}
	with := func(name, text string) map[string]string {
		m := map[string]string{}
		for k, v := range good {
			m[k] = v
		}
		if m[name] = text; text == "" {
			delete(m, name)
		}
		return m
	}
	tests := []struct {
		name  string
		files map[string]string
		spoil func(*Host)
		check string
		level Level
		words string
	}{
		{name: "all is well", files: good, check: "cgroups", level: OK, words: "v2 with"},
		{name: "a Pi without the memory cgroup", files: with("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids"), check: "cgroups", level: Degraded, words: "cmdline.txt"},
		{name: "v1 without memory", files: func() map[string]string {
			m := with("sys/fs/cgroup/cgroup.controllers", "")
			m["proc/cgroups"] = "#subsys_name hierarchy num_cgroups enabled\ncpu 1 1 1\nmemory 0 1 0\npids 3 1 1\n"
			m["sys/fs/cgroup/cpu/tasks"], m["sys/fs/cgroup/pids/tasks"] = "", ""
			return m
		}(), check: "cgroups", level: Degraded, words: "v1 without memory"},
		{name: "no battery", files: good, spoil: func(h *Host) { h.Now = func() time.Time { return time.Unix(60, 0) } }, check: "clock", level: Degraded, words: "1970"},
		{name: "earlier than before", files: with("data/agent/time", "1793800000\n"), check: "clock", level: Degraded, words: "the agent has seen 2026-11-04T13:46:40Z"},
		{name: "room", files: good, check: "disk", level: OK, words: "8.0 GiB free of 32.0 GiB"},
		{name: "a full card", files: good, spoil: disk(func(st *unix.Statfs_t) { st.Bavail = 1000 }), check: "disk", level: Degraded, words: "3 MiB free of 32.0 GiB"},
		{name: "no files left", files: good, spoil: disk(func(st *unix.Statfs_t) { st.Ffree = 10 }), check: "disk", level: Degraded, words: "10 of 1000 files left"},
		{name: "a card that is worn out", files: good, spoil: disk(func(st *unix.Statfs_t) { st.Flags = unix.ST_RDONLY }), check: "disk", level: Missing, words: "is read-only"},
		{name: "no VXLAN", files: good, spoil: func(h *Host) {
			h.Probe = func(f string) error {
				if f == "vxlan" {
					return errors.New("operation not supported")
				}
				return nil
			}
		}, check: "vxlan", level: Missing, words: "modprobe vxlan"},
		{name: "not root", files: good, spoil: func(h *Host) {
			h.User, h.Probe = 1000, func(string) error { return unix.EPERM }
		}, check: "overlayfs", level: Degraded, words: "sudo bramble check"},
		{name: "no CAP_SYS_RESOURCE", files: good, spoil: func(h *Host) {
			h.Capabilities = func() (uint64, error) { return ^uint64(1 << 24), nil }
		}, check: "capabilities", level: Degraded, words: "negative oom scores"},
		{name: "no resolver", files: with("etc/resolv.conf", ""), check: "resolver", level: Degraded, words: "DNS server"},
		{name: "no seccomp", files: with("proc/sys/kernel/seccomp/actions_avail", ""), check: "seccomp", level: Degraded, words: "CONFIG_SECCOMP_FILTER"},
		{name: "systemd's mounts", files: good, check: "mount propagation", level: OK, words: "works"},
		{name: "private mounts", files: with("proc/thread-self/mountinfo", "25 1 179:2 / / rw,relatime - ext4 /dev/root rw\n"), check: "mount propagation", level: Degraded, words: "--make-rshared"},
		{name: "another Kubernetes", files: with("proc/thread-self/net/tcp6", listens("192B", 7)), spoil: has(t, 7, "k3s-server"), check: "ports 6443, 8883", level: Degraded, words: "6443 is in use by k3s-server"},
		{name: "our server", files: with("proc/thread-self/net/tcp6", listens("192B", 7)), spoil: has(t, 7, "bramble"), check: "ports 6443, 8883", level: OK, words: "free for a server"},
		{name: "the web's ports are free", files: good, check: "ports 80 and 443", level: OK, words: "free"},
		{name: "a web server", files: with("proc/thread-self/net/tcp", listens("01BB", 7)), spoil: has(t, 7, "lighttpd"), check: "ports 80 and 443", level: Degraded, words: "443 is in use by lighttpd"},
		{name: "our own", files: with("proc/thread-self/net/tcp6", listens("0050", 7)), spoil: has(t, 7, "bramble-ingress"), check: "ports 80 and 443", level: OK, words: "free"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := board(t, tt.files)
			if tt.spoil != nil {
				tt.spoil(&h)
			}
			for _, r := range Run(h) {
				if r.Name != tt.check {
					continue
				}
				if r.Level != tt.level || !strings.Contains(r.String(), tt.words) {
					t.Fatalf("got %q, want level %v and %q", r, tt.level, tt.words)
				}
				return
			}
			t.Fatalf("no result named %s", tt.check)
		})
	}
}

// The kernel of whoever develops Bramble has what the tests need.
func TestThisMachine(t *testing.T) {
	for _, r := range Run(System(t.TempDir())) {
		if r.Level == Missing {
			t.Errorf("%s", r)
		}
		t.Log(r)
	}
}
