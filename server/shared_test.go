package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"bramble.dev/server/store/etcd"
	realetcd "bramble.dev/test/etcd"
)

// member is one of several servers on an etcd.
type member struct {
	kubernetes.Interface
	Info
	stop func() error
}

// sharedConfig is that of a server on an etcd. No broker answers: these tests have no nodes.
func sharedConfig(t *testing.T, dir, url string) Config {
	return Config{
		DataDir: dir, APIListen: "127.0.0.1:0", Broker: "mqtt://127.0.0.1:9", Domain: "cluster.local", Etcd: &etcd.Options{Servers: []string{url}},
		PodCIDR: netip.MustParsePrefix("10.42.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"),
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
}

func join(t *testing.T, dir, url string) member {
	t.Helper()
	return joinAt(t, dir, &etcd.Options{Servers: []string{url}})
}

func joinAt(t *testing.T, dir string, o *etcd.Options) member {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := sharedConfig(t, dir, "")
	c.Etcd = o
	ready, ended := make(chan Info, 1), make(chan error, 1)
	c.Ready = func(i Info) { ready <- i }
	go func() { ended <- Run(ctx, c) }()
	var once sync.Once
	var err error
	stop := func() error {
		once.Do(func() { cancel(); err = <-ended })
		return err
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("the server ended with: %v", err)
		}
	})
	select {
	case i := <-ready:
		return member{i.Admin, i, stop}
	case err := <-ended:
		ended <- nil
		t.Fatalf("the server did not start: %v", err)
	case <-time.After(2 * time.Minute):
		t.Fatal("the server is not ready after two minutes")
	}
	return member{}
}

// copyKeys is what an operator does for a second server.
func copyKeys(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(serverDir(to), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(pkiDir(to), os.DirFS(pkiDir(from))); err != nil {
		t.Fatal(err)
	}
}

func leader(t *testing.T, client kubernetes.Interface) string {
	lease, err := client.CoordinationV1().Leases(metav1.NamespaceSystem).Get(t.Context(), leaderLease, metav1.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity == nil {
		return ""
	}
	address, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
	return address
}

// leads says whether a server does.
func (m member) leads(t *testing.T) func() bool {
	return func() bool { return leader(t, m) == strings.TrimPrefix(m.APIURL, "https://") }
}

// Of two servers one leads, both serve, and the other takes over.
func TestTwoServers(t *testing.T) {
	url := realetcd.Start(t).URL
	one, two := t.TempDir(), t.TempDir()
	a := join(t, one, url)
	copyKeys(t, one, two)
	b := join(t, two, url)
	ctx := t.Context()
	eventually(t, "the first leads", a.leads(t))

	accounts := func(client kubernetes.Interface, namespace string) func() bool {
		return func() bool { // made by a controller
			_, err := client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
			return err == nil
		}
	}
	// A right that one gives counts at the other, and what one writes the other shows.
	if _, err := b.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.CoreV1().Namespaces().Get(ctx, "n", metav1.GetOptions{}); err != nil {
		t.Errorf("the other server does not know what was acknowledged: %v", err)
	}
	eventually(t, "the controllers keep a namespace that the other server made", accounts(b, "n"))
	if _, err := a.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "r"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	// Ports and addresses are given out once.
	ports, addresses := map[int32]string{}, map[string]string{}
	for i := range 40 {
		client := []kubernetes.Interface{a, b}[i%2]
		s, err := client.CoreV1().Services("n").Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("s", i)},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(80)}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		port := s.Spec.Ports[0].NodePort
		if other := ports[port]; other != "" {
			t.Errorf("%s and %s have port %d", other, s.Name, port)
		}
		if other := addresses[s.Spec.ClusterIP]; other != "" {
			t.Errorf("%s and %s have address %s", other, s.Name, s.Spec.ClusterIP)
		}
		ports[port], addresses[s.Spec.ClusterIP] = s.Name, s.Name
	}
	s, err := a.CoreV1().Services("n").Get(ctx, "s0", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	again := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "again"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, NodePort: s.Spec.Ports[0].NodePort}}}}
	if _, err := b.CoreV1().Services("n").Create(ctx, again.DeepCopy(), metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "already allocated") {
		t.Errorf("a port of another's was given: %v", err)
	}
	if err := a.CoreV1().Services("n").Delete(ctx, "s0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.CoreV1().Services("n").Create(ctx, again, metav1.CreateOptions{}); err != nil {
		t.Errorf("a port that is free again: %v", err)
	}

	// The one that leads ends: nothing is lost, and the controllers go on.
	if err := a.stop(); err != nil {
		t.Error(err)
	}
	eventually(t, "the second leads", b.leads(t))
	if _, err := b.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "later"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the controllers go on", accounts(b, "later"))
	if list, err := b.CoreV1().Services("n").List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 40 {
		t.Errorf("%d services are left of 40, %v", len(list.Items), err)
	}
}

// A server that would be believed by the boards of a cluster, and knows nothing of what they run, does not start.
func TestSharedRefusals(t *testing.T) {
	url := realetcd.Start(t).URL
	one := t.TempDir()
	if err := join(t, one, url).stop(); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	run := func(change func(c *Config)) error {
		c := sharedConfig(t, t.TempDir(), url)
		change(&c)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c.Ready = func(Info) { cancel() }
		return Run(ctx, c)
	}
	for _, tt := range []struct {
		name   string
		change func(*Config)
		says   string
	}{
		{"no keys of the cluster in etcd", func(c *Config) { c.DataDir = empty }, "copy to " + pkiDir(empty) + " the folder server/pki from below the --data-dir of another server"},
		{"an etcd that has lost everything", func(c *Config) { c.DataDir, c.Etcd.Prefix = one, "/empty" }, "told that nothing is to run"},
		{"a file with objects", func(c *Config) {
			copyKeys(t, one, c.DataDir)
			if err := os.WriteFile(databasePath(c.DataDir), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "bramble restore --store etcd"},
		{"without etcd", func(c *Config) { c.DataDir, c.Etcd = one, nil; c.MQTTListen = "127.0.0.1:0" }, "--store etcd"},
		{"the broker of one server", func(c *Config) { c.Broker, c.MQTTListen = "", "127.0.0.1:0" }, "--broker"},
	} {
		if err := run(tt.change); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.says)
		}
	}
	if err := Restore(t.Context(), filepath.Join(one, "backup"), one, nil); !errors.Is(err, ErrInUse) {
		t.Errorf("a restore over it: %v", err)
	}
}
