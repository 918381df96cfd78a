package simulated

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/server"
	"bramble.dev/server/auth"
)

// Twenty nodes and two hundred pods: what `scripts/bench scale` does with a thousand and ten thousand.
func TestManyNodes(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ready, ended := make(chan server.Info, 1), make(chan error, 2)
	dir := t.TempDir()
	go func() {
		ended <- server.Run(ctx, server.Config{
			DataDir: dir, APIListen: "127.0.0.1:0", MQTTListen: "127.0.0.1:0", Domain: "cluster.local",
			PodCIDR: netip.MustParsePrefix("10.32.0.0/12"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
			Ready: func(i server.Info) { ready <- i }, Logger: slog.New(slog.DiscardHandler),
		})
	}()
	var info server.Info
	select {
	case info = <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	token, err := auth.NewJoinToken(ctx, info.Admin, time.Hour, info.CAHash)
	if err != nil {
		t.Fatal(err)
	}
	nodes := New(Options{Servers: []string{info.MQTTURL}, Token: token, Dir: t.TempDir(), Count: 20})
	go func() { ended <- nodes.Run(ctx) }()
	if err := NodesReady(ctx, info.Admin, 20); err != nil {
		t.Fatal(err)
	}
	load := Load{Deployments: 10, Replicas: 20, Services: 5}
	if err := load.Create(ctx, info.Admin); err != nil {
		t.Fatal(err)
	}
	pace, err := AllReady(ctx, info.Admin, 200)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v, %d bytes a node", pace, nodes.Bytes()/20)

	// Quiet once converged.
	version := func() string {
		list, err := info.Admin.CoreV1().Pods("default").List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		return list.ResourceVersion
	}
	quiet := false
	for range 20 {
		before := version()
		time.Sleep(time.Second)
		if quiet = version() == before; quiet {
			break
		}
	}
	if !quiet {
		t.Error("the cluster still writes 20 s after all pods were Ready")
	}
	cancel()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
