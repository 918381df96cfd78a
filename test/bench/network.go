package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// network: what Services, the tunnel between hosts and names cost, beside what does without them in the same run. The packets'
// part is the benchmarks of package mesh (namespaces of their own, `ip` alone for the tunnel by hand); each ratio there is of
// many short turns of both, one after the other, so that what else the machine does meets both.
func network(ctx context.Context, _ options) error {
	b := &bench{ctx: ctx}
	err := errors.Join(b.services(), b.tunnel(), b.changes(), b.names())
	fmt.Print(table(b.rows))
	return err
}

// goBench runs benchmarks of a package: name without "Benchmark" and the number of processors -> unit -> value.
func (b *bench) goBench(pkg, pattern, times string) (map[string]map[string]float64, error) {
	cmd := exec.CommandContext(b.ctx, "go", "test", "-vet=off", "-run", "-", "-bench", pattern, "-benchtime", times, "-timeout", "30m", pkg)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("benchmarks %s of %s: %w: %s", pattern, pkg, err, out)
	}
	found := map[string]map[string]float64{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(f[0], "Benchmark")
		if i := strings.LastIndex(name, "-"); i > 0 {
			if _, err := strconv.Atoi(name[i+1:]); err == nil {
				name = name[:i]
			}
		}
		values := map[string]float64{}
		for i := 2; i+1 < len(f); i += 2 {
			values[f[i+1]], _ = strconv.ParseFloat(f[i], 64)
		}
		found[name] = values
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no benchmark %s in %s: %s", pattern, pkg, out)
	}
	return found, nil
}

// services: a Service's address beside the pod's own.
func (b *bench) services() error {
	found, err := b.goBench("./mesh", "^BenchmarkService$", "1x")
	if err != nil {
		return err
	}
	for _, where := range []string{"node", "other-node"} {
		for _, n := range []int{10, 1000, 5000} {
			v := found[fmt.Sprintf("Service/services=%d/pod=%s", n, where)]
			at := fmt.Sprintf("of %d, pod on the %s, in times of direct", n, map[string]string{"node": "node", "other-node": "other node"}[where])
			b.atLeast("a Service "+at+": bytes/s", 0.95, v["throughput-ratio"], "x", "")
			b.atLeast("a Service "+at+": connections/s", 0.95, v["connections-ratio"], "x", "")
		}
	}
	return nil
}

// tunnel: pods of two hosts, beside a VXLAN that `ip` made.
func (b *bench) tunnel() error {
	found, err := b.goBench("./mesh", "^BenchmarkTunnel$", "1x")
	if err != nil {
		return err
	}
	b.atLeast("pods of two hosts, in times of a VXLAN by hand: bytes/s", 0.95, found["Tunnel"]["throughput-ratio"], "x", "")
	// No budget: what was made by hand follows no connection, and could serve neither Services nor policies.
	b.atLeast("the same: connections/s", 0, found["Tunnel"]["connections-ratio"], "x", "")
	return nil
}

// changes: from the change of an endpoint, known to the agent, to the rule in the kernel.
func (b *bench) changes() error {
	found, err := b.goBench("./mesh", "^BenchmarkSet$/^changes=endpoint$", "200x")
	if err != nil {
		return err
	}
	for _, n := range []int{10, 5000} {
		b.atMost(fmt.Sprintf("from an endpoint's change to its rule, %d Services", n), 0, found[fmt.Sprintf("Set/changes=endpoint/services=%d", n)]["ns/op"]/1e6, "ms", "")
	}
	return nil
}
