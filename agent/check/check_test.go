package check

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
		Now:          func() time.Time { return time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) },
		Capabilities: func() (uint64, error) { return ^uint64(0), nil },
		Probe:        func(string) error { return nil },
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

func TestRun(t *testing.T) {
	good := map[string]string{
		"sys/fs/cgroup/cgroup.controllers":      "cpuset cpu io memory pids\n",
		"proc/sys/kernel/seccomp/actions_avail": "kill\n",
		"etc/resolv.conf":                       "nameserver 192.0.2.1\n",
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
		{name: "no VXLAN", files: good, spoil: func(h *Host) {
			h.Probe = func(f string) error {
				if f == "vxlan" {
					return errors.New("operation not supported")
				}
				return nil
			}
		}, check: "vxlan", level: Missing, words: "modprobe vxlan"},
		{name: "no CAP_SYS_RESOURCE", files: good, spoil: func(h *Host) {
			h.Capabilities = func() (uint64, error) { return ^uint64(1 << 24), nil }
		}, check: "capabilities", level: Degraded, words: "negative oom scores"},
		{name: "no resolver", files: with("etc/resolv.conf", ""), check: "resolver", level: Degraded, words: "DNS server"},
		{name: "no seccomp", files: with("proc/sys/kernel/seccomp/actions_avail", ""), check: "seccomp", level: Degraded, words: "CONFIG_SECCOMP_FILTER"},
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
	for _, r := range Run(System()) {
		if r.Level == Missing {
			t.Errorf("%s", r)
		}
		t.Log(r)
	}
}
