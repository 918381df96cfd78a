package container

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
)

// What containerd and Docker hide from containers, so that images find the same here.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func unmasked(in Input) bool {
	sc := in.Container.SecurityContext
	return sc != nil && sc.ProcMount != nil && *sc.ProcMount == corev1.UnmaskedProcMount
}

func noNewPrivileges(in Input) bool {
	sc := in.Container.SecurityContext
	return sc != nil && sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation
}

// defaultCapabilities are those of containerd and Docker.
var defaultCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD", "CAP_NET_BIND_SERVICE",
	"CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// capabilities follows securityContext. What the agent itself lacks it cannot give: a pod that asks for it runs without,
// as the node's condition says.
func capabilities(in Input) (*specs.LinuxCapabilities, error) {
	set := slices.Clone(defaultCapabilities)
	if privileged(in) {
		set = slices.Clone(in.Host.Capabilities)
	} else if sc := in.Container.SecurityContext; sc != nil && sc.Capabilities != nil {
		all := func(c corev1.Capability) bool { return strings.EqualFold(string(c), "ALL") }
		add, drop := sc.Capabilities.Add, sc.Capabilities.Drop
		if slices.ContainsFunc(add, all) {
			set = slices.Clone(in.Host.Capabilities)
		}
		if slices.ContainsFunc(drop, all) {
			set = nil
		}
		for _, c := range add {
			if name := capabilityName(c); !all(c) && !slices.Contains(set, name) {
				if !slices.Contains(knownCapabilities, name) {
					return nil, configError("container %q: securityContext.capabilities.add: %q is no capability", in.Container.Name, c)
				}
				set = append(set, name)
			}
		}
		for _, c := range drop {
			name := capabilityName(c)
			set = slices.DeleteFunc(set, func(have string) bool { return have == name })
		}
	}
	set = slices.DeleteFunc(set, func(c string) bool { return !slices.Contains(in.Host.Capabilities, c) })
	slices.Sort(set)
	return &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set}, nil
}

func capabilityName(c corev1.Capability) string {
	name := strings.ToUpper(string(c))
	if !strings.HasPrefix(name, "CAP_") {
		name = "CAP_" + name
	}
	return name
}

// knownCapabilities are the kernel's, by their numbers.
var knownCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP",
	"CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
	"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE",
	"CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP",
	"CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
	"CAP_CHECKPOINT_RESTORE",
}

// seccomp follows the profile of the container, or else of the pod. None is unconfined, as Kubernetes' default is.
func seccomp(in Input) (*specs.LinuxSeccomp, error) {
	if privileged(in) {
		return nil, nil
	}
	var profile *corev1.SeccompProfile
	if in.Pod.Spec.SecurityContext != nil {
		profile = in.Pod.Spec.SecurityContext.SeccompProfile
	}
	if sc := in.Container.SecurityContext; sc != nil && sc.SeccompProfile != nil {
		profile = sc.SeccompProfile
	}
	if profile == nil || profile.Type == corev1.SeccompProfileTypeUnconfined {
		return nil, nil
	}
	if !in.Host.Seccomp {
		return nil, configError("container %q: seccompProfile: this node's kernel has no seccomp", in.Container.Name)
	}
	if profile.Type == corev1.SeccompProfileTypeRuntimeDefault {
		caps, err := capabilities(in)
		if err != nil {
			return nil, err
		}
		return defaultSeccomp(caps.Bounding), nil
	}
	if profile.LocalhostProfile == nil || in.Host.SeccompDir == "" {
		return nil, configError("container %q: seccompProfile: localhostProfile is missing", in.Container.Name)
	}
	file := filepath.Join(in.Host.SeccompDir, filepath.Clean("/"+*profile.LocalhostProfile))
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, &ConfigError{fmt.Errorf("container %q: seccompProfile: %w", in.Container.Name, err)}
	}
	s := new(specs.LinuxSeccomp)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, &ConfigError{fmt.Errorf("container %q: seccompProfile %s: %w", in.Container.Name, file, err)}
	}
	return s, nil
}

func apparmor(in Input) (string, error) {
	var profile *corev1.AppArmorProfile
	if in.Pod.Spec.SecurityContext != nil {
		profile = in.Pod.Spec.SecurityContext.AppArmorProfile
	}
	if sc := in.Container.SecurityContext; sc != nil && sc.AppArmorProfile != nil {
		profile = sc.AppArmorProfile
	}
	if profile == nil || profile.Type != corev1.AppArmorProfileTypeLocalhost || profile.LocalhostProfile == nil {
		return "", nil
	}
	if !in.Host.AppArmor {
		return "", configError("container %q: appArmorProfile: AppArmor is not enabled on this node", in.Container.Name)
	}
	return *profile.LocalhostProfile, nil
}
