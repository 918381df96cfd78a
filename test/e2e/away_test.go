package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"bramble.dev/test/hosts"
)

// A StatefulSet whose pod would rather be on host3.
const lonely = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: %[1]s}
spec:
  replicas: 1
  serviceName: %[1]s
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [
        {weight: 100, preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [host3]}]}}]}}
      tolerations: %[3]s
      containers: [{name: sleep, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "%[2]s"]}]
`

const leaves = `[{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 0}]`

// A host's link is cut: by default its pods stay and are not replaced; what said that it goes is ended there before another
// is started elsewhere, also where the agent is dead; and when the host is back nothing that stayed was restarted. It takes
// the two minutes that it is about: scripts/away.
func TestAway(t *testing.T) {
	c := start(t, 3, hosts.ClusterOptions{Images: []string{image("busybox")}})
	c.apply(fmt.Sprintf(lonely, "stays", "918273", "[]"))
	c.apply(fmt.Sprintf(lonely, "moves", "918274", leaves))
	for _, app := range []string{"stays", "moves"} {
		if p := c.ready("app="+app, 1, 90*time.Second)[0]; p.Spec.NodeName != "host3" {
			t.Fatalf("%s is on %s", p.Name, p.Spec.NodeName)
		}
	}
	t.Log(c.kubectl("get", "pod", "moves-0", "-o", "jsonpath={.status.conditions[?(@.type==\"bramble.dev/EndsWhenCutOff\")].message}"))
	stop, most := make(chan struct{}), make(chan int)
	go func() {
		seen := 0
		for {
			select {
			case <-stop:
				most <- seen
				return
			case <-time.After(100 * time.Millisecond):
				seen = max(seen, processes("918274"))
			}
		}
	}()
	if os.Getenv("BRAMBLE_AWAY") == "agent" { // nobody but the shim is left to end the pod
		c.Agents[2].Kill()
	}
	if err := c.Hosts[2].Cut(); err != nil {
		t.Fatal(err)
	}
	cut := time.Now()
	c.eventually(4*time.Minute, "the pod that may go is replaced", func() error {
		if p := c.pods("app=moves"); len(p) != 1 || p[0].Spec.NodeName == "host3" || !isReady(p[0]) {
			return fmt.Errorf("it is not")
		}
		return nil
	})
	t.Logf("replaced after %s", time.Since(cut).Round(time.Second))
	if p := c.pods("app=stays"); len(p) != 1 || p[0].DeletionTimestamp != nil || p[0].Spec.NodeName != "host3" || processes("918273") != 1 {
		t.Errorf("the pod that stays is not as it was")
	}
	if err := c.Hosts[2].Restore(); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("BRAMBLE_AWAY") != "agent" {
		c.ready("app=stays", 1, 90*time.Second)
		time.Sleep(10 * time.Second) // in which the node might start what is no longer its own
		if p := c.pods("app=stays"); restarts(p) != 0 {
			t.Error("a healthy container was restarted")
		}
	}
	close(stop)
	if n := <-most; n != 1 {
		t.Errorf("%d of one identity ran at once", n)
	}
}

// processes counts those that sleep for that long, on all hosts: they share the kernel.
func processes(seconds string) int {
	n := 0
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range all {
		if b, err := os.ReadFile(f); err == nil && bytes.HasPrefix(b, []byte("sleep\x00"+seconds)) {
			n++
		}
	}
	return n
}
