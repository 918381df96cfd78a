package container

import (
	"path"
	"sort"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
)

// mounts lists everything that is mounted in the container, and how mounts pass between its root and the host.
func mounts(in Input) ([]specs.Mount, string) {
	access := "ro"
	if privileged(in) {
		access = "rw"
	}
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", access}},
	}
	taken := map[string]bool{}
	for _, m := range in.Mounts {
		taken[path.Clean(m.Target)] = true
	}
	list = without(list, taken)
	etc := "rw"
	if readOnlyRoot(in) {
		etc = "ro"
	}
	own := func(source, target string, access ...string) {
		if source != "" && !taken[target] {
			list = append(list, specs.Mount{Destination: target, Type: "bind", Source: source, Options: append([]string{"rbind", "rprivate"}, access...)})
		}
	}
	own(in.Sandbox.Shm, "/dev/shm") // runc takes "rw" as a word on all options, and would undo nosuid, nodev and noexec
	own(in.Sandbox.Hosts, "/etc/hosts", etc)
	own(in.Sandbox.HostsName, "/etc/hostname", etc)
	own(in.Sandbox.ResolvConf, "/etc/resolv.conf", etc)
	if p := in.Container.TerminationMessagePath; p != "" {
		own(in.Sandbox.Termination, path.Clean(p), "rw")
	}
	volumes, propagation := volumeMounts(in.Mounts)
	return append(list, volumes...), propagation
}

func without(list []specs.Mount, taken map[string]bool) []specs.Mount {
	kept := list[:0]
	for _, m := range list {
		if !taken[m.Destination] {
			kept = append(kept, m)
		}
	}
	return kept
}

func volumeMounts(all []Mount) ([]specs.Mount, string) {
	propagation := ""
	var list []specs.Mount
	for _, m := range all {
		how := "rprivate"
		switch corev1.MountPropagationMode(m.Propagation) {
		case corev1.MountPropagationBidirectional:
			how, propagation = "rshared", "rshared"
		case corev1.MountPropagationHostToContainer:
			how = "rslave"
			if propagation == "" {
				propagation = "rslave"
			}
		}
		access := "rw"
		switch {
		case m.RecursiveReadOnly:
			access = "rro"
		case m.ReadOnly:
			access = "ro"
		}
		options := []string{"rbind", how, access}
		if m.NoExec {
			options = append(options, "noexec", "nosuid", "nodev")
		}
		list = append(list, specs.Mount{Destination: path.Clean(m.Target), Type: "bind", Source: m.Source, Options: options})
	}
	// A volume inside another's folder comes after it.
	sort.SliceStable(list, func(i, j int) bool {
		return strings.Count(list[i].Destination, "/") < strings.Count(list[j].Destination, "/")
	})
	return list, propagation
}
