package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"bramble.dev/test/hosts"
)

// What may reach a node after its absence, every header and the new TLS connection included.
const returnBudget = 16 << 10

// A node was away while three of thousands of things changed: only the difference crosses the link on its return,
// and meanwhile its pods kept running.
func TestByDifference(t *testing.T) {
	t.Parallel() // most of it is waiting
	c := start(t, 2, hosts.ClusterOptions{Images: []string{image("busybox")}})
	// 1 MiB in all; two of the maps are small, and those will change: an item crosses the link whole.
	c.apply(servicesAndConfigMaps(300, 0, 2, 1<<10))
	c.apply(servicesAndConfigMaps(0, 2, 16, 74<<10))
	c.apply(reader(16, "host2"))
	pods := c.ready("app=reader", 1, 2*time.Minute)
	away := 1 // the host of the node that is cut off
	if pods[0].Spec.NodeName != c.Hosts[away].Name {
		t.Fatalf("the reader is on %s", pods[0].Spec.NodeName)
	}
	started := c.kubectl("get", "pod", "reader", "-o", "jsonpath={.status.containerStatuses[0].state.running.startedAt}")
	c.settle(away)

	t.Run("cut off for two minutes", func(t *testing.T) {
		c.returnsWithinBudget(t, away, 1, 2*time.Minute, func() {})
	})
	t.Run("server and agent restarted meanwhile", func(t *testing.T) {
		c.returnsWithinBudget(t, away, 2, 20*time.Second, func() {
			if err := c.Server.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := c.Agents[away].Kill(); err != nil {
				t.Fatal(err)
			}
			if err := c.StartServer(c.ctx); err != nil {
				t.Fatal(err)
			}
			if err := c.StartAgent(away); err != nil {
				t.Fatal(err)
			}
		})
	})
	now := c.ready("app=reader", 1, time.Minute)
	if restarts(now) != 0 || now[0].Status.ContainerStatuses[0].State.Running.StartedAt.UTC().Format(time.RFC3339) != started {
		t.Errorf("the pod of the node that was away was restarted: %+v", now[0].Status.ContainerStatuses)
	}
}

// settle waits until the node's link is quiet: what was sent so far has arrived.
func (c *cluster) settle(i int) {
	c.t.Helper()
	var last uint64
	c.eventually(time.Minute, "the link is quiet", func() error {
		traffic, err := c.Hosts[i].Traffic()
		if err != nil {
			return err
		}
		moved := traffic.Received - last
		last = traffic.Received
		time.Sleep(2 * time.Second)
		if moved > 500 {
			return fmt.Errorf("%d bytes in two seconds", moved)
		}
		return nil
	})
}

// returnsWithinBudget cuts the node off, changes three things meanwhile, and counts what reaches it on its return.
func (c *cluster) returnsWithinBudget(t *testing.T, i, round int, absence time.Duration, meanwhile func()) {
	h := c.Hosts[i]
	if err := h.Cut(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	want := fmt.Sprintf("changed-%d", round)
	c.kubectl("patch", "configmap", "config-0", "--type=merge", "-p", `{"data":{"mark":"`+want+`"}}`)
	c.kubectl("patch", "configmap", "config-1", "--type=merge", "-p", `{"data":{"mark":"`+want+`"}}`)
	c.kubectl("patch", "service", "service-7", "--type=merge", "-p", fmt.Sprintf(`{"spec":{"ports":[{"port":80,"targetPort":%d}]}}`, 8000+round))
	meanwhile()
	time.Sleep(time.Until(began.Add(absence)))
	if got := c.mark(i, "config-0"); got == want {
		t.Fatal("the change arrived although the link is cut")
	}
	before, err := h.Traffic()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Restore(); err != nil {
		t.Fatal(err)
	}
	c.eventually(90*time.Second, "the changes arrive", func() error {
		for _, name := range []string{"config-0", "config-1"} {
			if got := c.mark(i, name); got != want {
				return fmt.Errorf("%s says %q", name, got)
			}
		}
		return nil
	})
	c.settle(i)
	after, err := h.Traffic()
	if err != nil {
		t.Fatal(err)
	}
	got := after.Received - before.Received
	t.Logf("%d bytes reached the node on its return", got)
	if got > returnBudget {
		t.Errorf("%d bytes reached the node on its return, more than %d", got, returnBudget)
	}
}

// mark reads what the pod's mounted ConfigMap says now, on the node itself: what crosses its link is being counted.
func (c *cluster) mark(i int, configMap string) string {
	out, _ := c.Hosts[i].Run(c.ctx, "sh", "-c", "cat $(find "+hosts.DataDir+"/agent/volumes -path '*/"+configMap+"/mark' | head -n 1)")
	return strings.TrimSpace(out)
}

// servicesAndConfigMaps: count Services without pods, and the maps from first to last-1 of size bytes each, which do not
// compress to nothing.
func servicesAndConfigMaps(count, first, last, size int) string {
	var b strings.Builder
	for i := range count {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Service\nmetadata: {name: service-%d}\nspec: {selector: {app: none-%d}, ports: [{port: 80}]}\n", i, i)
	}
	for i := first; i < last; i++ {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: config-%d}\ndata:\n  mark: first\n  filler: %q\n", i, noise(i, size))
	}
	return b.String()
}

// noise is text that a compressor cannot shorten much, the same for the same seed.
func noise(seed, size int) string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-"
	out := make([]byte, size)
	x := uint64(seed)*2862933555777941757 + 3037000493
	for i := range out {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		out[i] = letters[x%64]
	}
	return string(out)
}

// reader is a pod on a host that mounts all the maps.
func reader(maps int, host string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
apiVersion: v1
kind: Pod
metadata: {name: reader, labels: {app: reader}}
spec:
  nodeSelector: {kubernetes.io/hostname: %s}
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sleep, "1000000"]
    volumeMounts:
`, host)
	for i := range maps {
		fmt.Fprintf(&b, "    - {name: config-%d, mountPath: /config-%d}\n", i, i)
	}
	b.WriteString("  volumes:\n")
	for i := range maps {
		fmt.Fprintf(&b, "  - {name: config-%d, configMap: {name: config-%d}}\n", i, i)
	}
	return b.String()
}
