package catalog

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/agent/state"
	"bramble.dev/link"
)

func encode(t *testing.T, o interface{ Marshal() ([]byte, error) }) []byte {
	t.Helper()
	b, err := o.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWhatWasAppliedIsThereAfterARestart(t *testing.T) {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	path := filepath.Join(t.TempDir(), "agent.db")
	db, err := state.Open(path, log)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(db, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "u"} }
	touched, err := c.Apply(ctx, Node, []link.Change{
		{Key: "pods/shop/web", Value: encode(t, &corev1.Pod{ObjectMeta: meta("web")})},
		{Key: "secrets/shop/s", Value: encode(t, &corev1.Secret{ObjectMeta: meta("s"), Data: map[string][]byte{"k": []byte("v")}})},
		{Key: "handlers/sandboxed", Value: []byte("kata")},
		{Key: "configmaps/shop/c", Value: encode(t, &corev1.ConfigMap{ObjectMeta: meta("c")})},
		{Key: "node/pi", Value: encode(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "pi"}})},
	})
	if err != nil || !touched.Pods || !touched.Node || !touched.Namespaces["shop"] {
		t.Fatalf("%+v %v", touched, err)
	}
	cluster, _ := link.ClusterConfig{ID: "x", DNS: "10.43.0.10"}.Encode()
	peer, _ := link.Peer{Node: "pi2", IP: "192.168.1.3"}.Encode()
	if _, err := c.Apply(ctx, Shared, []link.Change{
		{Key: "services/shop/b", Value: encode(t, &corev1.Service{ObjectMeta: meta("b")})},
		{Key: "services/shop/a", Value: encode(t, &corev1.Service{ObjectMeta: meta("a")})},
		{Key: link.ClusterKey, Value: cluster}, {Key: "peers/pi2", Value: peer}, {Key: "peers/bad", Value: []byte("{")},
	}); err != nil {
		t.Fatal(err)
	}
	if _, synced := c.Services(); synced {
		t.Error("complete before anybody said so")
	}
	c.SetLoaded(Shared)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = state.Open(path, log); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if c, err = Open(db, log); err != nil {
		t.Fatal(err)
	}
	services, synced := c.Services()
	again, _ := c.Services()
	if !synced || len(services) != 2 || services[0].Name != "a" || &services[0] != &again[0] {
		t.Errorf("%v %v", services, synced)
	}
	if len(c.Pods()) != 1 || c.Node().Name != "pi" || c.Cluster().DNS != "10.43.0.10" || len(c.Peers()) != 1 || c.Loaded(Node) {
		t.Errorf("%v %v %v %v", c.Pods(), c.Node(), c.Cluster(), c.Peers())
	}
	if s, ok := c.Secret("shop", "s"); !ok || string(s.Data["k"]) != "v" {
		t.Errorf("%v %v", s, ok)
	}
	if _, ok := c.Secret("shop", "gone"); ok {
		t.Error("a secret that is not there")
	}
	if h, ok := c.RuntimeHandler("sandboxed"); !ok || h != "kata" {
		t.Errorf("%v %v", h, ok)
	}
	if _, ok := c.RuntimeHandler("gone"); ok {
		t.Error("a class that is not there")
	}
	index, err := c.Index(Node)
	if err != nil || index.Len() != 5 {
		t.Errorf("%v %v", index, err)
	}
	if _, err := c.Apply(ctx, Node, []link.Change{{Key: "pods/shop/web"}, {Key: "secrets/shop/s"}}); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Secret("shop", "s"); ok || len(c.Pods()) != 0 {
		t.Error("deleted, and still there")
	}
}
