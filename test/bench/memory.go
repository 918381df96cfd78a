package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// usage of a process's memory, in MiB.
type usage struct{ resident, anonymous, proportional float64 }

func usageOf(pid int) (usage, error) {
	status, err := meminfo(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return usage{}, err
	}
	rollup, err := meminfo(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return usage{}, err
	}
	return usage{resident: status["VmRSS"] / 1024, anonymous: status["RssAnon"] / 1024, proportional: rollup["Pss"] / 1024}, nil
}

// meminfo reads a file of "Name: 123 kB" lines.
func meminfo(path string) (map[string]float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m := map[string]float64{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		if v := strings.Fields(rest); len(v) > 0 {
			if n, err := strconv.ParseFloat(v[0], 64); err == nil {
				m[name] = n
			}
		}
	}
	return m, nil
}

// settleTime is how long a process is left alone before its memory is read: start-up pages are given back by then.
const settleTime = 45 * time.Second

func (b *bench) processes() error {
	if err := b.sleep(settleTime); err != nil {
		return err
	}
	server, err := usageOf(b.c.Server.Pid())
	if err != nil {
		return err
	}
	agent, err := usageOf(b.c.Agents[1].Pid())
	if err != nil {
		return err
	}
	b.atMost("server, idle, resident", 48, server.resident, "MiB", "")
	b.atMost("server, idle, anonymous", 24, server.anonymous, "MiB", "")
	b.atMost("server, idle, proportional", 0, server.proportional, "MiB", "")
	b.atMost("agent, idle, resident", 24, agent.resident, "MiB", "")
	b.atMost("agent, idle, anonymous", 8, agent.anonymous, "MiB", "")
	b.atMost("agent, idle, proportional", 0, agent.proportional, "MiB", "")
	return nil
}

// perPod: what each pod costs beside its own processes, and in the kernel.
func (b *bench) perPod() error {
	before, err := kernelMemory()
	if err != nil {
		return err
	}
	if err := b.deployment("idle", b.o.pods, ""); err != nil {
		return err
	}
	if err := b.sleep(10 * time.Second); err != nil {
		return err
	}
	total, count := 0.0, 0
	for _, name := range []string{"bramble-shim", "bramble-pause"} {
		pids, err := b.running(name)
		if err != nil {
			return err
		}
		count = max(count, len(pids))
		for _, pid := range pids {
			u, err := usageOf(pid)
			if err != nil {
				continue // it may just have ended
			}
			total += u.proportional
		}
	}
	if count < b.o.pods {
		return fmt.Errorf("%d shims for %d pods", count, b.o.pods)
	}
	after, err := kernelMemory()
	if err != nil {
		return err
	}
	b.atMost(fmt.Sprintf("each of %d pods: shim and pause, proportional", b.o.pods), 1.5, total/float64(count), "MiB", "13.9 resident, 4.0 (README)")
	b.atMost("each pod, in the kernel (slab, stacks, page tables)", 0, (after-before)/float64(b.o.pods), "MiB", "")
	agent, err := usageOf(b.c.Agents[1].Pid())
	if err != nil {
		return err
	}
	b.atMost(fmt.Sprintf("agent with %d pods, resident", b.o.pods/2), 24, agent.resident, "MiB", "")
	b.atMost(fmt.Sprintf("agent with %d pods, anonymous", b.o.pods/2), 8, agent.anonymous, "MiB", "")
	return b.remove("idle")
}

func kernelMemory() (float64, error) {
	m, err := meminfo("/proc/meminfo")
	return (m["SUnreclaim"] + m["KernelStack"] + m["PageTables"]) / 1024, err
}

// running are the processes of this run's executable, by its file.
func (b *bench) running(name string) ([]int, error) {
	want, err := os.Stat(filepath.Join(b.bin, name))
	if err != nil {
		return nil, err
	}
	procs, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, p := range procs {
		if info, err := os.Stat(p); err == nil && os.SameFile(want, info) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func (b *bench) sleep(d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
}
