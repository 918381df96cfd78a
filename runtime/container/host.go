package container

import (
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bramble.dev/runtime/cgroup"
)

// Host is what the machine, and the process that we are, can do.
type Host struct {
	Unified      bool     // cgroup version 2
	Memory       bool     // the memory controller: Raspberry Pi OS leaves it out unless the kernel is told otherwise
	Swap         bool     // swap can be limited
	Capabilities []string // that can be given
	MinOOMScore  int      // the lowest that can be set
	MemoryBytes  int64
	Seccomp      bool
	AppArmor     bool
	SeccompDir   string // of localhost profiles
	Devices      []specs.LinuxDevice
}

// Detect finds out. It is called once; what is lacking is degraded, not an error at every pod.
func Detect(tree *cgroup.Tree) Host {
	h := Host{Unified: tree.Unified(), Memory: tree.Has("memory"), Devices: hostDevices()}
	h.Swap = tree.HasSwapLimit()
	status, _ := os.ReadFile("/proc/self/status")
	h.Capabilities = boundCapabilities(string(status))
	h.Seccomp = strings.Contains(string(status), "\nSeccomp:")
	h.MinOOMScore = minOOMScore(h.Capabilities)
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		h.MemoryBytes = memTotal(string(b))
	}
	if b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err == nil {
		h.AppArmor = strings.HasPrefix(string(b), "Y")
	}
	return h
}

// boundCapabilities reads the capabilities that we have and may pass on.
func boundCapabilities(status string) []string {
	mask := func(key string) uint64 {
		_, rest, _ := strings.Cut(status, "\n"+key+":")
		line, _, _ := strings.Cut(rest, "\n")
		v, _ := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
		return v
	}
	have := mask("CapBnd") & mask("CapPrm")
	var list []string
	for i, name := range knownCapabilities {
		if have&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	return list
}

func minOOMScore(capabilities []string) int {
	for _, c := range capabilities {
		if c == "CAP_SYS_RESOURCE" {
			return -1000
		}
	}
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	own, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return own
}

func memTotal(meminfo string) int64 {
	_, rest, _ := strings.Cut(meminfo, "MemTotal:")
	line, _, _ := strings.Cut(rest, "\n")
	kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(line), " kB"), 10, 64)
	return kb << 10
}
