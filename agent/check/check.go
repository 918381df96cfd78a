// Package check finds out what the kernel, the process or the board lacks of what a node needs, and says how to
// mend it. `bramble check` prints it: what is missing is degraded and named, never an error at pod start.
//
//	for _, r := range check.Run(check.System(dir)) { fmt.Println(r) }
package check

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Level says how much a finding matters.
type Level int

const (
	OK       Level = iota
	Degraded       // works without, with less
	Missing        // pods cannot run, or not reach each other
)

func (l Level) String() string { return [...]string{"ok", "degraded", "missing"}[l] }

// Result is what one probe found.
type Result struct {
	Name   string
	Level  Level
	Found  string // what was seen
	Remedy string // what to do, empty when OK
}

func (r Result) String() string {
	s := fmt.Sprintf("%-9s %-18s %s", r.Level, r.Name, r.Found)
	if r.Remedy != "" {
		s += "\n" + strings.Repeat(" ", 29) + "-> " + r.Remedy
	}
	return s
}

// Host is what the probes look at; a test gives a folder of its own in place of the root.
type Host struct {
	Root         string // "/" on a real machine
	Data         string // the data folder, which need not be there yet
	User         int    // who asks
	Now          func() time.Time
	Capabilities func() (uint64, error) // the effective set, one bit a capability
	Probe        func(feature string) error
	Stat         func(path string) (unix.Statfs_t, error)
}

// System is the machine that this process runs on.
func System(data string) Host {
	return Host{Root: "/", Data: data, User: os.Geteuid(), Now: time.Now, Capabilities: effective, Probe: probe, Stat: statfs}
}

// Run makes every check, in the order in which a reader should mend them.
func Run(h Host) []Result {
	return []Result{
		h.root(),
		h.capabilities(),
		h.clock(),
		h.disk(),
		h.memoryCgroup(),
		h.feature("overlayfs", "overlay", Missing, "load it with `modprobe overlay` and add `overlay` to /etc/modules"),
		h.feature("vxlan", "vxlan", Missing, "load it with `modprobe vxlan`; on Raspberry Pi OS install the full kernel: `apt install linux-modules-extra-raspi` (Ubuntu) or `apt full-upgrade`"),
		h.feature("nftables", "nftables", Missing, "load it with `modprobe nf_tables`; on Raspberry Pi OS update the kernel: `apt full-upgrade`"),
		h.seccomp(),
		h.propagation(),
		h.resolver(),
		h.serverPorts(),
		h.webPorts(),
	}
}

func (h Host) root() Result {
	r := Result{Name: "user", Found: "root"}
	if h.User != 0 {
		r = Result{"user", Missing, fmt.Sprintf("uid %d", h.User), asRoot}
	}
	return r
}

const asRoot = "run `sudo bramble check`; the agent runs as root too, by `sudo` or its systemd unit"

// needed capabilities and what is lost without each.
var needed = []struct {
	bit   uint
	name  string
	level Level
	loss  string
}{
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", Missing, "no mounts and namespaces"},
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", Missing, "no pod network"},
	{unix.CAP_SYS_CHROOT, "CAP_SYS_CHROOT", Missing, "no container roots"},
	{unix.CAP_MKNOD, "CAP_MKNOD", Degraded, "no device files in images"},
	{unix.CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE", Degraded, "no negative oom scores and no raised limits"},
	{unix.CAP_SYS_TIME, "CAP_SYS_TIME", Degraded, "the clock cannot be stepped to the server's"},
}

func (h Host) capabilities() Result {
	set, err := h.Capabilities()
	if err != nil {
		return Result{"capabilities", Degraded, err.Error(), "mount /proc"}
	}
	r := Result{Name: "capabilities", Found: "all that are needed"}
	var lost []string
	for _, c := range needed {
		if set&(1<<c.bit) == 0 {
			lost = append(lost, c.name+": "+c.loss)
			r.Level = max(r.Level, c.level)
		}
	}
	if len(lost) > 0 {
		r.Found = "lacks " + strings.Join(lost, "; ")
		r.Remedy = "start the agent outside a container, or give that container the capability"
		if h.User != 0 {
			r.Found, r.Remedy = "not root's", asRoot
		}
	}
	return r
}

func (h Host) memoryCgroup() Result {
	const remedy = "Raspberry Pi OS: append `cgroup_enable=memory cgroup_memory=1` to the one line of /boot/firmware/cmdline.txt and reboot"
	if data, err := os.ReadFile(filepath.Join(h.Root, "sys/fs/cgroup/cgroup.controllers")); err == nil {
		have := " " + strings.TrimSpace(string(data)) + " "
		var lost []string
		for _, c := range []string{"cpu", "memory", "pids"} {
			if !strings.Contains(have, " "+c+" ") {
				lost = append(lost, c)
			}
		}
		if len(lost) > 0 {
			return Result{"cgroups", Degraded, "v2 without " + strings.Join(lost, ", ") + ": limits on these are not enforced", remedy}
		}
		return Result{Name: "cgroups", Found: "v2 with cpu, memory, pids"}
	}
	data, err := os.ReadFile(filepath.Join(h.Root, "proc/cgroups"))
	if err != nil {
		return Result{"cgroups", Missing, "none", "mount cgroup2 at /sys/fs/cgroup"}
	}
	on := map[string]bool{}
	for _, line := range strings.Split(string(data), "\n") {
		if f := strings.Fields(line); len(f) == 4 && f[3] == "1" {
			on[f[0]] = true
		}
	}
	var lost []string
	for _, c := range []string{"cpu", "memory", "pids"} {
		if _, err := os.Stat(filepath.Join(h.Root, "sys/fs/cgroup", c)); !on[c] || err != nil {
			lost = append(lost, c)
		}
	}
	if len(lost) > 0 {
		return Result{"cgroups", Degraded, "v1 without " + strings.Join(lost, ", ") + ": limits on these are not enforced", remedy}
	}
	return Result{Name: "cgroups", Found: "v1 with cpu, memory, pids"}
}

func (h Host) feature(name, feature string, level Level, remedy string) Result {
	switch err := h.Probe(feature); {
	case err != nil && h.User != 0: // it says nothing of the kernel
		return Result{name, Degraded, "cannot be tried: " + err.Error(), asRoot}
	case err != nil:
		return Result{name, level, err.Error(), remedy}
	}
	return Result{Name: name, Found: "works"}
}

func (h Host) seccomp() Result {
	if _, err := os.Stat(filepath.Join(h.Root, "proc/sys/kernel/seccomp/actions_avail")); err != nil {
		return Result{"seccomp", Degraded, "the kernel has none: profiles are not applied", "use a kernel with CONFIG_SECCOMP_FILTER"}
	}
	return Result{Name: "seccomp", Found: "works"}
}

func (h Host) resolver() Result {
	data, err := os.ReadFile(filepath.Join(h.Root, "etc/resolv.conf"))
	if err != nil || !strings.Contains(string(data), "nameserver") {
		return Result{"resolver", Degraded, "/etc/resolv.conf names no server: pods resolve only the cluster's names", "give the board a DNS server, by DHCP or in /etc/resolv.conf"}
	}
	return Result{Name: "resolver", Found: "/etc/resolv.conf"}
}

// modprobe asks for a module; its failure is not one, since what matters is whether the thing then works.
func modprobe(module string) {
	if path, err := exec.LookPath("modprobe"); err == nil {
		_ = exec.Command(path, "-q", module).Run()
	}
}
