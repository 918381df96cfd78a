package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Stats is what a cgroup uses.
type Stats struct {
	Time       time.Time
	CPU        time.Duration // since the cgroup was made
	Memory     uint64        // bytes, page cache included
	WorkingSet uint64        // Memory without the page cache that can go at once
	RSS        uint64        // anonymous memory
	Pids       uint64        // processes, threads included
}

// Stats reads what a cgroup uses; what the kernel does not count is zero. It is an error if there is no such cgroup.
func (t *Tree) Stats(name string) (Stats, error) {
	s := Stats{Time: time.Now()}
	if t.unified != "" {
		cpu, err := table(t.file("", name, "cpu.stat"))
		if err != nil {
			return s, fmt.Errorf("read use of cgroup %s: %w", name, err)
		}
		s.CPU = time.Duration(cpu["usage_usec"]) * time.Microsecond
		s.Memory = number(t.file("", name, "memory.current"))
		memory, _ := table(t.file("", name, "memory.stat"))
		s.WorkingSet, s.RSS = less(s.Memory, memory["inactive_file"]), memory["anon"]
		s.Pids = number(t.file("", name, "pids.current"))
	} else {
		cpu, err := os.ReadFile(t.file("cpuacct", name, "cpuacct.usage"))
		if err != nil {
			return s, fmt.Errorf("read use of cgroup %s: %w", name, err)
		}
		ns, _ := strconv.ParseInt(strings.TrimSpace(string(cpu)), 10, 64)
		s.CPU = time.Duration(ns)
		s.Memory = number(t.file("memory", name, "memory.usage_in_bytes"))
		memory, _ := table(t.file("memory", name, "memory.stat"))
		s.WorkingSet, s.RSS = less(s.Memory, memory["total_inactive_file"]), memory["total_rss"]
		s.Pids = number(t.file("pids", name, "pids.current"))
	}
	return s, nil
}

func less(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

func number(file string) uint64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64)
	return n
}

// table reads a file of lines "name number".
func table(file string) (map[string]uint64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	m := map[string]uint64{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), " "); ok {
			if n, err := strconv.ParseUint(value, 10, 64); err == nil {
				m[name] = n
			}
		}
	}
	return m, errors.Join(lines.Err())
}
