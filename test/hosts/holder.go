package hosts

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// holderVariable makes this executable the first process of a host instead of what it usually is.
const holderVariable = "BRAMBLE_TEST_HOLDER"

// Each host's first process is this test executable once more: it prepares the host's mounts, collects orphans, and
// ends when its standard input does, that is, when whoever made the host ends in any way, SIGKILL included. The
// kernel then ends every process of the host, and with them goes all that the host had mounted or configured.
func init() {
	folder := os.Getenv(holderVariable)
	if folder == "" {
		return
	}
	runtime.LockOSThread() // the first thread: what joins the host later looks at its namespaces
	if err := hold(folder); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func hold(folder string) error {
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil { // moved into its cgroup and connected
		return err
	}
	if folder != "-" { // "-" is the switch, which only has a network
		if err := prepareHost(folder); err != nil {
			return err
		}
	}
	fmt.Println("ok")
	go func() {
		_, _ = io.Copy(io.Discard, in)
		os.Exit(0)
	}()
	reap()
	return nil
}

// reap collects what is handed to the host's first process, for ever.
func reap() {
	children := make(chan os.Signal, 1) // one is enough: a pass collects all
	signal.Notify(children, syscall.SIGCHLD)
	for range children {
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != nil || pid <= 0 {
				break
			}
		}
	}
}

// prepareHost gives the host its own view of the machine: processes, network devices, cgroups, /run and /var/lib.
func prepareHost(folder string) error {
	hierarchies, err := cgroupHierarchies()
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("new cgroup namespace: %w", err)
	}
	if err := unix.Sethostname([]byte(filepath.Base(folder))); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	mounts := []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"none", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"proc", "/proc", "proc", 0, ""},
		{"sysfs", "/sys", "sysfs", 0, ""},
		{"tmpfs", "/run", "tmpfs", 0, "mode=755"},
		{"tmpfs", "/var/lib", "tmpfs", 0, "mode=755"},
	}
	for _, m := range mounts {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	for _, h := range hierarchies {
		if err := h.mount(); err != nil {
			return err
		}
	}
	if err := enterLeaf(); err != nil {
		return err
	}
	if err := os.MkdirAll(DataDir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(folder, DataDir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind the data folder: %w", err)
	}
	return nil
}

// hierarchy is one mounted tree of cgroups: version 1 has several, version 2 one.
type hierarchy struct {
	path string // /sys/fs/cgroup/memory
	kind string // cgroup or cgroup2
	data string // memory, or none,name=systemd
}

// cgroupHierarchies reads what the machine has mounted.
func cgroupHierarchies() ([]hierarchy, error) {
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var out []hierarchy
	for _, line := range strings.Split(string(data), "\n") {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[2], "cgroup") {
			continue
		}
		h := hierarchy{path: f[1], kind: f[2]}
		if f[2] == "cgroup" {
			h.data = controllers(f[3])
		}
		out = append(out, h)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no cgroup hierarchy is mounted")
	}
	return out, nil
}

// controllers leaves of a version 1 mount's options those that name the hierarchy.
func controllers(options string) string {
	var out []string
	for _, o := range strings.Split(options, ",") {
		switch {
		case o == "rw" || o == "ro" || strings.HasPrefix(o, "no") || o == "relatime" || o == "seclabel" || o == "xattr":
		case strings.HasPrefix(o, "name="):
			out = append(out, "none", o)
		default:
			out = append(out, o)
		}
	}
	return strings.Join(out, ",")
}

func (h hierarchy) mount() error {
	if filepath.Dir(h.path) == "/sys/fs/cgroup" {
		// Version 1 hierarchies lie side by side in a tmpfs.
		if _, err := os.Stat(h.path); err != nil {
			if err := ensureTmpfs(); err != nil {
				return err
			}
			if err := os.Mkdir(h.path, 0o755); err != nil {
				return err
			}
		}
	}
	if err := unix.Mount(h.kind, h.path, h.kind, 0, h.data); err != nil {
		return fmt.Errorf("mount %s (%s): %w", h.path, h.data, err)
	}
	return nil
}

func ensureTmpfs() error {
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
		return err
	}
	if st.Type == unix.TMPFS_MAGIC {
		return nil
	}
	return unix.Mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, "mode=755")
}
