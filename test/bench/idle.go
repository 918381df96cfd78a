package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const probePeriod = 10 * time.Second

// cpuTime is how long the processes' computing is watched: USER_HZ resolves it to 1/10,000 of a core.
const cpuTime = 100 * time.Second

// idleCluster watches 30 pods, one of them with an exec probe: what the processes compute, and then, while a Lease is
// renewed every two seconds, what is written to disk and what crosses the second host's link.
func (b *bench) idleCluster() error {
	if err := b.deployment("steady", 29, ""); err != nil {
		return err
	}
	if err := b.deployment("probed", 1, fmt.Sprintf(`, livenessProbe: {exec: {command: ["true"]}, periodSeconds: %.0f}`, probePeriod.Seconds())); err != nil {
		return err
	}
	client, err := b.client()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(b.ctx)
	defer stop()
	if err := b.sleep(60 * time.Second); err != nil { // what was just deployed is written and reported
		return err
	}
	node, probes := b.cpu()
	if err := b.sleep(cpuTime); err != nil {
		return err
	}
	nodeAfter, probesAfter := b.cpu()
	bare, err := b.bareExec()
	if err != nil {
		return fmt.Errorf("bare runc exec: %w", err)
	}
	b.atMost("CPU of server, an agent, shims, idle, of one core", 0.5, 100*(nodeAfter-node)/cpuTime.Seconds(), "%", "")
	b.atMost("CPU of an exec probe", 0, 1000*(probesAfter-probes)/(cpuTime.Seconds()/probePeriod.Seconds()), "ms", "")
	b.rows = append(b.rows, row{what: "CPU of a bare runc exec of the same, mean of 20", measured: number(1000*bare) + " ms"})

	renewed := make(chan error, 1)
	go func() { renewed <- renew(ctx, client) }()
	if err := b.sleep(10 * time.Second); err != nil { // the Lease is made
		return err
	}

	sectors, err := b.disk.sectors()
	if err != nil {
		return err
	}
	traffic, err := b.c.Hosts[1].Traffic()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := b.sleep(b.o.idle); err != nil {
		return err
	}
	sectorsAfter, err := b.disk.sectors()
	if err != nil {
		return err
	}
	trafficAfter, err := b.c.Hosts[1].Traffic()
	if err != nil {
		return err
	}
	stop()
	if err := <-renewed; err != nil {
		return fmt.Errorf("renew the Lease: %w", err)
	}

	minutes := b.o.idle.Minutes()
	bytes := float64(trafficAfter.Received + trafficAfter.Sent - traffic.Received - traffic.Sent)
	written := row{what: fmt.Sprintf("written to disk in %s: 30 pods, exec probe, Lease renewer", b.o.idle), budget: "0 bytes",
		measured: fmt.Sprintf("%d bytes", (sectorsAfter-sectors)*512)}
	if sectorsAfter != sectors {
		written.ratio = 2 // any write misses a budget of nothing
		fmt.Fprintf(os.Stderr, "written since:\n%s", b.disk.changed(began))
	}
	b.rows = append(b.rows, written)
	b.atMost("an idle node's link, every header included, a minute", 1024, bytes/minutes, "bytes", "")
	if err := b.remove("probed"); err != nil {
		return err
	}
	return b.remove("steady")
}

// renew renews a Lease every two seconds, as a leader election does.
func renew(ctx context.Context, client kubernetes.Interface) error {
	leases := client.CoordinationV1().Leases("default")
	holder, seconds := "bench", int32(15)
	lease, err := leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "bench"},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds}}, metav1.CreateOptions{})
	for err == nil {
		select {
		case <-ctx.Done():
			return client.CoordinationV1().Leases("default").Delete(context.Background(), "bench", metav1.DeleteOptions{})
		case <-time.After(2 * time.Second):
		}
		now := metav1.NowMicro()
		lease.Spec.RenewTime = &now
		lease, err = leases.Update(context.Background(), lease, metav1.UpdateOptions{})
	}
	return err
}

// cpu is the seconds that a node (server, one agent, the shims of all) has computed itself, and those of the shims'
// children that ended: what the exec probe cost.
func (b *bench) cpu() (node, probes float64) {
	for _, pid := range []int{b.c.Server.Pid(), b.c.Agents[0].Pid()} {
		own, _ := cpuOf(pid)
		node += own
	}
	pids, _ := b.running("bramble-shim")
	for _, pid := range pids {
		own, children := cpuOf(pid)
		node += own
		probes += children
	}
	return node, probes
}

// cpuOf reads /proc/PID/stat (proc(5)): a process's own seconds and its ended children's. One that has ended has none.
func cpuOf(pid int) (own, children float64) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, 0
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	f := strings.Fields(rest)
	ticks := func(i int) float64 { // of 1/100 s: USER_HZ on every Linux port that Bramble runs on
		n, _ := strconv.ParseFloat(f[i], 64)
		return n / 100
	}
	if len(f) < 15 {
		return 0, 0
	}
	return ticks(11) + ticks(12), ticks(13) + ticks(14) // utime, stime, cutime, cstime: fields 14 to 17
}

// bareExec is the CPU, in seconds, of running true in a running container with runc alone.
func (b *bench) bareExec() (float64, error) {
	dir, err := b.bareBundle("bare-exec", "sleep 1000")
	if err != nil {
		return 0, err
	}
	runc := func(args ...string) (*exec.Cmd, error) {
		cmd := exec.Command(filepath.Join(b.bin, "runc"), append([]string{"--root", filepath.Join(dir, "state")}, args...)...)
		return cmd, cmd.Run()
	}
	if _, err := runc("run", "--detach", "--bundle", dir, "bench-exec"); err != nil {
		return 0, err
	}
	total := 0.0
	const times = 20
	for range times {
		cmd, err := runc("exec", "bench-exec", "true")
		if err != nil {
			return 0, err
		}
		total += (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	}
	_, err = runc("delete", "--force", "bench-exec")
	return total / times, err
}

// changed lists the files of the device that were written since then, a line each.
func (d device) changed(since time.Time) string {
	var out strings.Builder
	_ = filepath.WalkDir(d.mount, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // it went away
		}
		if info, err := e.Info(); err == nil && info.ModTime().After(since) {
			fmt.Fprintf(&out, "  %s %s, %d bytes\n", info.ModTime().Format(time.TimeOnly), path, info.Size())
		}
		return nil
	})
	return out.String()
}
