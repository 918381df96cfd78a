package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

// settleTime is how long a process is left alone before its memory is read: pages are given back in the first quiet
// minute that is two minutes after the last time (cmd/footprint).
const settleTime = 200 * time.Second

// processes: server and agent, idle, with nothing on them.
func (b *bench) processes() error { return b.idleMemory("idle") }

// afterwards: the same at the end of everything, when what was made is removed again.
func (b *bench) afterwards() error {
	for _, namespace := range []string{"default", "kube-public"} {
		if _, err := b.c.Kubectl(b.ctx, "delete", "configmap", "-n", namespace, "--all", "--wait=false"); err != nil {
			return err
		}
	}
	return b.idleMemory("afterwards")
}

// idleMemory waits and measures the server, and an agent that has its executable's file for itself.
func (b *bench) idleMemory(when string) error {
	if err := b.sleep(settleTime); err != nil {
		return err
	}
	for _, p := range []struct {
		name                string
		pid                 int
		resident, anonymous float64 // the budgets, MiB
	}{{"server", b.c.Server.Pid(), 48, 24}, {"agent", b.c.Agents[1].Pid(), 24, 8}} {
		u, err := usageOf(p.pid)
		if err != nil {
			return err
		}
		what := p.name + ", " + when + ", "
		b.atMost(what+"resident", p.resident, u.resident, "MiB", "")
		b.atMost(what+"anonymous", p.anonymous, u.anonymous, "MiB", "")
		b.atMost(what+"proportional", 0, u.proportional, "MiB", "")
	}
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
	b.atMost(fmt.Sprintf("each of %d pods: shim and pause, proportional", b.o.pods), 1.5, total/float64(count), "MiB", "13.9 resident, 4.0 (once)")
	b.atMost("each pod, in the kernel (slab, stacks, page tables)", 0, (after-before)/float64(b.o.pods), "MiB", "")
	for _, when := range []struct {
		name                string
		wait                time.Duration
		resident, anonymous float64 // the budgets, MiB; none while it works
	}{{"just started", 0, 0, 0}, {"at rest", settleTime, 24, 8}} {
		if err := b.sleep(when.wait); err != nil {
			return err
		}
		agent, err := usageOf(b.c.Agents[1].Pid())
		if err != nil {
			return err
		}
		what := fmt.Sprintf("agent with %d pods, %s, ", b.o.pods/2, when.name)
		b.atMost(what+"resident", when.resident, agent.resident, "MiB", "")
		b.atMost(what+"anonymous", when.anonymous, agent.anonymous, "MiB", "")
	}
	return b.remove("idle")
}

func kernelMemory() (float64, error) {
	m, err := meminfo("/proc/meminfo")
	return (m["SUnreclaim"] + m["KernelStack"] + m["PageTables"]) / 1024, err
}

// running are the processes of this run's executable, by its files.
func (b *bench) running(name string) ([]int, error) {
	var want []os.FileInfo
	for _, path := range b.c.Programs(name) {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		want = append(want, info)
	}
	procs, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, p := range procs {
		info, err := os.Stat(p)
		if err == nil && slices.ContainsFunc(want, func(w os.FileInfo) bool { return os.SameFile(w, info) }) {
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
