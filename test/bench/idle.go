package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// idleCluster watches 30 pods, one of them with an exec probe, while a Lease is renewed every two seconds: what is
// written to disk, what crosses the second host's link, what the processes compute.
func (b *bench) idleCluster() error {
	if err := b.deployment("steady", 29, ""); err != nil {
		return err
	}
	if err := b.deployment("probed", 1, `, livenessProbe: {exec: {command: ["true"]}, periodSeconds: 10}`); err != nil {
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
	cpu := b.cpu()
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
	cpuAfter := b.cpu()
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
	}
	b.rows = append(b.rows, written)
	b.atMost("an idle node's link, every header included, a minute", 1024, bytes/minutes, "bytes", "")
	b.atMost("CPU of server, agents, shims, idle, of one core", 0.5, 100*(cpuAfter-cpu)/b.o.idle.Seconds(), "%", "")
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

// cpu is the seconds that all processes of this run's executables have computed, their children that ended included.
func (b *bench) cpu() float64 {
	total := 0.0
	for _, name := range []string{"bramble", "bramble-agent", "bramble-shim", "bramble-pause", "runc"} {
		pids, err := b.running(name)
		if err != nil {
			continue
		}
		for _, pid := range pids {
			total += cpuOf(pid)
		}
	}
	return total
}

func cpuOf(pid int) float64 {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	f := strings.Fields(rest)
	total := 0.0
	for _, i := range []int{11, 12, 13, 14} { // utime, stime, cutime, cstime: fields 14 to 17 of proc(5)
		if i < len(f) {
			n, _ := strconv.ParseFloat(f[i], 64)
			total += n
		}
	}
	return total / 100 // USER_HZ is 100 on every Linux port that Bramble runs on
}
