package cgroup

import (
	"os"
	"strconv"
	"strings"
)

// Limits are what a cgroup's files say; zero means none, or that the kernel does not have it.
type Limits struct {
	CPUShares uint64 `json:"cpuShares,omitempty"` // version 1
	CPUWeight uint64 `json:"cpuWeight,omitempty"` // version 2
	CPUQuota  int64  `json:"cpuQuota,omitempty"`  // microseconds in a period
	CPUPeriod int64  `json:"cpuPeriod,omitempty"`
	Memory    int64  `json:"memory,omitempty"` // bytes
}

// unlimited is more than any board has: version 1 writes no limit as the largest number of pages.
const unlimited = 1 << 60

// Limits reads what a cgroup is limited to.
func (t *Tree) Limits(name string) Limits {
	read := func(controller, file string) []string {
		b, err := os.ReadFile(t.file(controller, name, file))
		if err != nil {
			return nil
		}
		return strings.Fields(string(b))
	}
	at := func(fields []string, i int) int64 {
		if i >= len(fields) {
			return 0
		}
		n, err := strconv.ParseInt(fields[i], 10, 64) // "max" is none
		if err != nil || n < 0 || n > unlimited {
			return 0
		}
		return n
	}
	if t.unified != "" {
		limit := read("cpu", "cpu.max")
		return Limits{
			CPUWeight: uint64(at(read("cpu", "cpu.weight"), 0)), CPUQuota: at(limit, 0), CPUPeriod: at(limit, 1), Memory: at(read("memory", "memory.max"), 0),
		}
	}
	return Limits{
		CPUShares: uint64(at(read("cpu", "cpu.shares"), 0)), CPUQuota: at(read("cpu", "cpu.cfs_quota_us"), 0),
		CPUPeriod: at(read("cpu", "cpu.cfs_period_us"), 0), Memory: at(read("memory", "memory.limit_in_bytes"), 0),
	}
}
