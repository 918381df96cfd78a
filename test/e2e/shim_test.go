package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"bramble.dev/test/hosts"
)

// A pod's shim is killed, by the kernel for want of memory or by hand: the pod is started anew, its status and its events
// say why, and nothing of the former one is left. Its status also tells as whom its container runs.
func TestShimKilled(t *testing.T) {
	c := start(t, 1, hosts.ClusterOptions{Images: []string{image("busybox")}})
	h := c.Hosts[0]
	c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: victim, labels: {app: victim}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {runAsUser: 1000, runAsGroup: 1001, supplementalGroups: [44, 998]}
  volumes: [{name: scratch, emptyDir: {medium: Memory}}]
  containers: [{name: a, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "1000000"], volumeMounts: [{name: scratch, mountPath: /scratch}]}]
`)
	c.ready("app=victim", 1, time.Minute)
	if got := c.kubectl("get", "pod", "victim", "-o", "jsonpath={.status.containerStatuses[0].user}"); got != `{"linux":{"gid":1001,"supplementalGroups":[44,998,1001],"uid":1000}}` {
		t.Errorf("the container's user: %s", got)
	}
	before := c.left(t)
	if out, err := h.Run(c.ctx, "sh", "-c", "set -- $(pidof bramble-shim); [ $# = 1 ] && kill -KILL $1"); err != nil {
		t.Fatal(err, out)
	}
	c.eventually(time.Minute, "the container is started anew", func() error {
		out, err := c.Kubectl(c.ctx, "get", "pod", "victim", "-o", "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}")
		if err == nil && out != "1 true" {
			err = fmt.Errorf("restarts and readiness: %s", out)
		}
		return err
	})
	c.describes("victim", "SandboxChanged", "Reason:       Unknown", "bramble-shim", "Exit Code:    255")
	c.eventually(30*time.Second, "nothing of the former pod is left", func() error {
		if now := c.left(t); now != before {
			return fmt.Errorf("mounts, shims, pauses, interfaces: %s, before %s", now, before)
		}
		return nil
	})
	c.kubectl("delete", "pod", "victim")
	c.eventually(30*time.Second, "nothing of any pod is left", func() error {
		if now := c.left(t); !strings.HasSuffix(now, " 0 0 0") {
			return fmt.Errorf("mounts, shims, pauses, interfaces: %s", now)
		}
		return nil
	})
}

// left counts what pods hold on the first host: mounts, shims, pause processes, interfaces.
func (c *cluster) left(t *testing.T) string {
	t.Helper()
	out, err := c.Hosts[0].Run(c.ctx, "sh", "-c",
		"echo $(wc -l < /proc/mounts) $(pidof bramble-shim | wc -w) $(pidof bramble-pause | wc -w) $(grep -c '^ *ve' /proc/net/dev)")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}
