package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/test/etcd"
	"bramble.dev/test/hosts"
)

// Three etcd with client certificates, two servers on them, and mosquitto between these and the agents. One of the etcd, the server that
// leads, and then the one that does not, are killed while others write. What was acknowledged is there, the controllers go on, and no
// container is started again.
func TestTwoServers(t *testing.T) {
	lab := newLab(t, 3)
	quorum, flags := shared(t, lab)
	first := startOn(t, lab, hosts.ClusterOptions{Server: quorum.Broker, ServerArgs: flags})
	joined, err := first.Join(first.ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	second := &cluster{Cluster: joined, t: t, ctx: first.ctx}

	first.kubectl("apply", "-f", manifest("01-deployment.yaml"))
	before := containers(second.ready("app=nginx", 3, 90*time.Second))
	pod := second.pods("app=nginx")[0].Name
	if out, err := second.exec(pod, "echo", "through the other server"); err != nil || strings.TrimSpace(out) != "through the other server" {
		t.Errorf("exec by way of the server that does not lead: %q, %v", out, err)
	}
	if !strings.Contains(second.kubectl("get", "--raw", "/api/v1/nodes/host3/proxy/healthz"), "ok") {
		t.Error("a node's API by way of the server that does not lead")
	}

	memory := func(when string) {
		for what, p := range map[string]*hosts.Process{"the server that leads": first.Server, "the other": second.Server, "an etcd": quorum.Members[1]} {
			t.Logf("%s: %.0f MiB of anonymous memory %s", what, float64(anonymousOf(t, p))/1024, when)
		}
	}
	memory("with three pods")
	for i, w := range []struct {
		what    string
		c       *cluster
		writers int
	}{{"the server that leads", first, 1}, {"the server that leads", first, 16}, {"the other", second, 1}, {"the other", second, 16}} {
		t.Logf("%d writers by way of %s: %.0f creates a second of ConfigMaps of 1.5 KB", w.writers, w.what, creates(t, w.c.Kubeconfig, fmt.Sprint("measured-", i), w.writers, 1000))
	}
	memory("with 4,000 ConfigMaps more")

	writing := []*writers{newWriters(t, first.Kubeconfig), newWriters(t, second.Kubeconfig)}
	ctx, stop := context.WithCancel(first.ctx)
	defer stop()
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() { writing[i%2].write(ctx, i) })
	}

	at := time.Now()
	if err := quorum.Members[0].Kill(); err != nil {
		t.Fatal(err)
	}
	for i, w := range writing {
		w.goesOn(t, first, fmt.Sprintf("server %d with one etcd less", i+1))
	}
	t.Logf("one of three etcd killed: both servers write again after %s", time.Since(at).Round(10*time.Millisecond))
	if err := quorum.StartMember(0); err != nil {
		t.Fatal(err)
	}

	at = time.Now()
	if err := first.Server.Kill(); err != nil {
		t.Fatal(err)
	}
	writing[1].goesOn(t, second, "the server that is left")
	t.Logf("the server that leads killed: the other writes after %s", time.Since(at).Round(10*time.Millisecond))
	second.kubectl("scale", "deployment", "nginx-deployment", "--replicas=5")
	second.ready("app=nginx", 5, 3*time.Minute)
	t.Logf("the server that leads killed: two pods more are ready after %s", time.Since(at).Round(10*time.Millisecond))
	if err := first.StartServer(first.ctx); err != nil {
		t.Fatal(err)
	}
	if out, err := first.exec(pod, "echo", "back"); err != nil || strings.TrimSpace(out) != "back" {
		t.Errorf("exec by way of the server that came back, and does not lead: %q, %v", out, err)
	}
	writing[0].goesOn(t, first, "the server that came back")

	if err := first.Server.Kill(); err != nil {
		t.Fatal(err)
	}
	writing[1].goesOn(t, second, "the server that leads, when the other is killed")
	second.kubectl("scale", "deployment", "nginx-deployment", "--replicas=6")
	second.ready("app=nginx", 6, 3*time.Minute)
	if err := first.StartServer(first.ctx); err != nil {
		t.Fatal(err)
	}
	stop()
	wait.Wait()

	now := first.ready("app=nginx", 6, time.Minute)
	if n := restarts(now); n != 0 {
		t.Errorf("%d restarts of healthy containers", n)
	}
	after := containers(now)
	for name, id := range before {
		if got := after[name]; got != id {
			t.Errorf("the container of %s was replaced: %q, before %s", name, got, id)
		}
	}
	for i, w := range writing {
		w.client = writing[1-i].client // each is asked for what the other has acknowledged
	}
	for _, w := range writing {
		w.verify(t)
	}
}

// goesOn waits for more acknowledged writes.
func (w *writers) goesOn(t *testing.T, c *cluster, who string) {
	t.Helper()
	count := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.acked)
	}
	start := count()
	c.eventually(2*time.Minute, who+" goes on", func() error {
		if n := count() - start; n < 60 {
			return fmt.Errorf("%d writes more are acknowledged", n)
		}
		return nil
	})
}

// shared starts what several servers need on a lab, and gives their flags.
func shared(t *testing.T, lab *hosts.Lab) (*hosts.Quorum, []string) {
	t.Helper()
	binary, err := etcd.Binary(t.Context())
	if err != nil {
		t.Fatalf("this test needs a real etcd: %v", err)
	}
	q, err := hosts.StartQuorum(lab, binary)
	if err != nil {
		t.Fatal(err)
	}
	return q, q.ServerArgs()
}

// creates makes ConfigMaps with some writers, and says how many there were a second.
func creates(t *testing.T, kubeconfig, name string, writers, count int) float64 {
	t.Helper()
	client := newWriters(t, kubeconfig).client.CoreV1().ConfigMaps("default")
	data := map[string]string{"key": strings.Repeat("0123456789abcdef", 90)}
	var next atomic.Int64
	var wait sync.WaitGroup
	began := time.Now()
	for range writers {
		wait.Go(func() {
			for i := next.Add(1); i <= int64(count); i = next.Add(1) {
				if _, err := client.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", name, i)}, Data: data}, metav1.CreateOptions{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	return float64(count) / time.Since(began).Seconds()
}
