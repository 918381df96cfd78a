package dispatch_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/flate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestReturnByDifference: a node that was away gets what changed and little more, also when server
// and agent were restarted: at most 16 KiB for three items, TLS and all handshakes included.
func TestReturnByDifference(t *testing.T) {
	overBrokers(t, func(t *testing.T, c *cluster) {
		r := rand.New(rand.NewPCG(1, 1))
		text := func(n int) string {
			var b strings.Builder
			for b.Len() < n {
				fmt.Fprintf(&b, "key-%d=%x\n", r.IntN(100), r.Uint64())
			}
			return b.String()[:n]
		}
		for i := range 300 {
			c.service(fmt.Sprint("service-", i))
		}
		var names []string
		for i := range 16 {
			name := fmt.Sprint("map-", i)
			c.configMap(name, text(64<<10))
			names = append(names, name)
		}
		c.configMap("small", "before")
		c.pod("p", "pi1", append(names, "small")...)
		c.start()
		b := c.board("pi1")
		b.start(c, c.token)
		whole := func() bool {
			return b.u.Synced("node") && b.u.Synced("shared") && b.sets["shared"].Len() >= 301 && b.sets["node"].Len() >= 19
		}
		eventually(t, "everything is on the node", whole)
		t.Logf("first contact: %d bytes", b.wires.in.Load())
		change := func(n int) {
			c.configMap("small", fmt.Sprint("after ", n))
			c.service(fmt.Sprint("new-", n))
			if err := c.client.CoreV1().Services("default").Delete(context.Background(), fmt.Sprint("service-", n), metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		arrived := func(n int) func() bool {
			return func() bool {
				v, _ := b.sets["node"].Get("configmaps/default/small")
				var cm corev1.ConfigMap
				return cm.Unmarshal(v) == nil && cm.Data["data"] == fmt.Sprint("after ", n) && b.has("shared", fmt.Sprint("services/default/new-", n)) &&
					!b.has("shared", fmt.Sprint("services/default/service-", n)) && b.u.Connected() && b.u.Synced("node") && b.u.Synced("shared")
			}
		}
		for n, what := range []string{"cut", "agent restarted", "server restarted", "both restarted"} {
			b.wires.set(true)
			eventually(t, "node is offline", func() bool { online, _ := c.dispatcher.Online("pi1"); return !online })
			if strings.Contains(what, "agent") || strings.Contains(what, "both") {
				if err := b.stop(); err != nil {
					t.Error(err)
				}
			}
			change(n)
			if strings.Contains(what, "server") || strings.Contains(what, "both") {
				c.stop()
				c.start()
			}
			b.wires.set(false)
			before, applied := b.wires.in.Load(), b.applied.Load()
			if strings.Contains(what, "agent") || strings.Contains(what, "both") {
				b.start(c, "")
			}
			eventually(t, what, arrived(n))
			time.Sleep(200 * time.Millisecond)
			bytes := b.wires.in.Load() - before
			t.Logf("%s: %d bytes, %d items", what, bytes, b.applied.Load()-applied)
			if bytes > 16<<10 {
				t.Errorf("%s: %d bytes reached the node", what, bytes)
			}
			if n := b.applied.Load() - applied; n != 3 {
				t.Errorf("%s: %d items were applied, not 3", what, n)
			}
		}
	})
}

// TestOneChange: what reaches the node for one changed ConfigMap, against the compressed change.
func TestOneChange(t *testing.T) {
	c := newCluster(t)
	r := rand.New(rand.NewPCG(1, 1))
	var data strings.Builder
	for data.Len() < 20_000 {
		fmt.Fprintf(&data, "key-%d=%x\n", r.IntN(100), r.Uint64())
	}
	c.configMap("m", "")
	c.pod("p", "pi1", "m")
	c.start()
	b := c.board("pi1")
	b.start(c, c.token)
	eventually(t, "synced", func() bool {
		return b.has("node", "configmaps/default/m") && b.u.Synced("node") && b.u.Synced("shared")
	})
	time.Sleep(200 * time.Millisecond)
	before := b.wires.in.Load()
	c.configMap("m", data.String())
	eventually(t, "change", func() bool { v, _ := b.sets["node"].Get("configmaps/default/m"); return len(v) > 20_000 })
	time.Sleep(200 * time.Millisecond)
	bytes := b.wires.in.Load() - before
	v, _ := b.sets["node"].Get("configmaps/default/m")
	compressed := deflated(t, v)
	t.Logf("%d bytes reached the node for %d, compressed %d: ratio %.2f", bytes, len(v), compressed, float64(bytes)/float64(compressed))
	if float64(bytes) > 1.2*float64(compressed) {
		t.Error("more than 1.2 times the compressed change")
	}
}

// deflated is the size of an item as the link compresses it.
func deflated(t *testing.T, b []byte) int {
	t.Helper()
	var out strings.Builder
	w, err := flate.NewWriter(&out, 6)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Len()
}
