package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/test/hosts"
)

// Volumes on a real NFS server, which loses its power in the middle of a write. It is another machine, which scripts/test --guest nfs
// makes: it says where it is (BRAMBLE_NFS) and does with it what this test asks for on its output.
func TestNFS(t *testing.T) {
	server := os.Getenv("BRAMBLE_NFS")
	if server == "" {
		t.Skip("scripts/test --guest nfs runs it, on two guests")
	}
	c := &nfs{start(t, 2, hosts.ClusterOptions{Images: []string{image("busybox")}}), server}
	c.volumes(t)
	c.mistakes(t)
	c.outage(t)
	c.kubectl("delete", "pods", "--all", "--wait=false")
	for i := range c.Hosts {
		c.unmounted(i, "", time.Minute)
	}
}

type nfs struct {
	*cluster
	server string
}

// ask has whoever runs the server's machine do something with it.
func (c *nfs) ask(what string) { fmt.Println("GUEST-ASK", what) }

// nfsPod is a pod on a node. It does not wait to be ended: what holds it up then is the server alone.
func nfsPod(name, node, command, mounts, volumes string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %[1]s}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, %q]
    volumeMounts: [%s]
  volumes: [%s]
`, name, node, command, mounts, volumes)
}

func (c *nfs) export(name, path string) string {
	return fmt.Sprintf("{name: %s, nfs: {server: %s, path: %s}}", name, c.server, path)
}

func claimOf(name, class, more string) string {
	return fmt.Sprintf(`
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s}
spec: {accessModes: [ReadWriteMany], storageClassName: %q, resources: {requests: {storage: 1Gi}}%s}
`, name, class, more)
}

func (c *nfs) class(name, share, policy string) string {
	return fmt.Sprintf(`
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: %s}
provisioner: bramble.dev/nfs
parameters: {server: %s, share: %s}
reclaimPolicy: %s
`, name, c.server, share, policy)
}

const idle = "sleep 100000"

// Each number is said only when it is on the server's disk.
const counts = "n=0; while :; do n=$((n+1)); echo $n >>/data/numbers && sync /data/numbers && echo synced $n || exit 1; sleep 0.2; done"

// volumes: an export named by pods, a PersistentVolume made by hand, and claims of a class that have folders of their own.
func (c *nfs) volumes(t *testing.T) {
	const data = "{name: data, mountPath: /data}"
	c.apply(c.class("shared", "/srv/data", "Delete") + c.class("kept", "/srv/data", "Retain") +
		claimOf("shared", "shared", "") + claimOf("kept", "kept", "") + claimOf("by-hand", "", ", volumeName: by-hand") + fmt.Sprintf(`
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: by-hand}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteMany]
  mountOptions: [nfsvers=4.1, noatime]
  nfs: {server: %s, path: /srv/data}
`, c.server) +
		nfsPod("writer", "host2", counts, data, c.export("data", "/srv/data")) +
		nfsPod("reader", "host1", idle, data, c.export("data", "/srv/data")) +
		nfsPod("by-hand", "host1", "echo here >/part/file; "+idle, "{name: v, mountPath: /part, subPath: deep/part}", "{name: v, persistentVolumeClaim: {claimName: by-hand}}") +
		nfsPod("claims", "host1", "echo s >/shared/file; echo k >/kept/file; "+idle, "{name: s, mountPath: /shared}, {name: k, mountPath: /kept}",
			"{name: s, persistentVolumeClaim: {claimName: shared}}, {name: k, persistentVolumeClaim: {claimName: kept}}"))
	for _, name := range []string{"writer", "reader", "by-hand", "claims"} {
		c.ready("app="+name, 1, time.Minute)
	}
	c.eventually(time.Minute, "what is written on one node is read on the other", func() error {
		out, err := c.exec("reader", "sh", "-c", "wc -l </data/numbers; cat /data/deep/part/file /data/default-shared-*/file /data/default-kept-*/file")
		if err != nil || strings.HasPrefix(out, "0\n") || !strings.HasSuffix(strings.TrimSpace(out), "here\ns\nk") {
			return fmt.Errorf("%q (%v)", out, err)
		}
		return nil
	})
	if options, err := c.Hosts[0].Run(c.ctx, "busybox", "grep", "/volumes/.*/v .* nfs4 ", "/proc/self/mountinfo"); err != nil || !strings.Contains(options, "vers=4.1") || !strings.Contains(options, "noatime") {
		t.Errorf("the volume made by hand is mounted so: %q (%v)", options, err)
	}
	c.kubectl("delete", "pod", "claims", "by-hand")
	c.kubectl("delete", "pvc", "shared", "kept")
	c.eventually(time.Minute, "the folder of the one claim goes, that of the other stays", func() error {
		out, err := c.exec("reader", "sh", "-c", "cd /data; echo default-*/file")
		if err != nil || strings.Contains(out, "default-shared") || !strings.Contains(out, "default-kept") {
			return fmt.Errorf("%q (%v)", out, err)
		}
		return nil
	})
	c.eventually(time.Minute, "of the volumes the one that is kept stays, and the one made by hand", func() error {
		if out := c.kubectl("get", "pv", "-o", "jsonpath={.items[*].status.phase}"); out != "Bound Released" {
			return fmt.Errorf("volumes are %s", out)
		}
		return nil
	})
}

// mistakes: what a person got wrong is said in an event.
func (c *nfs) mistakes(t *testing.T) {
	const at = "{name: v, mountPath: /v}"
	c.apply(c.class("squashed", "/srv/squashed", "Delete") + claimOf("squashed", "squashed", "") +
		nfsPod("no-export", "host1", idle, at, c.export("v", "/srv/nothing")) +
		nfsPod("closed", "host1", idle, at, c.export("v", "/srv/closed")) +
		nfsPod("no-name", "host1", idle, at, "{name: v, nfs: {server: nosuch.invalid, path: /srv/data}}") +
		nfsPod("squashed", "host1", idle, at, "{name: v, persistentVolumeClaim: {claimName: squashed}}") +
		nfsPod("squashed-part", "host1", idle, "{name: v, mountPath: /v, subPath: part}", c.export("v", "/srv/squashed")))
	for name, want := range map[string]string{
		"no-export":     "the server exports no such folder to this node",
		"closed":        "/srv/closed: ",
		"no-name":       "nfs server nosuch.invalid: ",
		"squashed":      "no_root_squash",
		"squashed-part": "no_root_squash",
	} {
		t.Log(name, c.event(name, want, time.Minute))
	}
	c.kubectl("delete", "pods", "no-export", "closed", "no-name", "squashed", "squashed-part")
}

// event waits for one about a pod, and returns its message.
func (c *nfs) event(pod, want string, patience time.Duration) string {
	c.t.Helper()
	var found string
	c.eventually(patience, "an event at "+pod+" says: "+want, func() error {
		out, err := c.events(pod)
		for line := range strings.Lines(out) {
			if strings.Contains(line, want) {
				found = strings.TrimSpace(line)
				return nil
			}
		}
		return fmt.Errorf("%s (%v)", out, err)
	})
	return found
}

// events about a pod, one a line: type, reason, count, message.
func (c *nfs) events(pod string) (string, error) {
	return c.Kubectl(c.ctx, "get", "events", "--field-selector", "involvedObject.name="+pod, "-o", `jsonpath={range .items[*]}{.type} {.reason} {.count}: {.message}{"\n"}{end}`)
}

// outage: the server's power is cut while one pod writes numbers and another as fast as it can.
func (c *nfs) outage(t *testing.T) {
	const data = "{name: data, mountPath: /data}"
	c.apply(nfsPod("careless", "host1", "while :; do dd if=/dev/zero of=/data/zeros bs=64k count=100 2>/dev/null; done", data, c.export("data", "/srv/data")))
	c.ready("app=careless", 1, time.Minute)
	c.ask("off")
	began := time.Now()

	// The node goes on.
	c.apply(nfsPod("other", "host2", "echo said; "+idle, "", "") + nfsPod("late", "host2", "cat /data/numbers >/dev/null && "+idle, data, c.export("data", "/srv/data")))
	c.ready("app=other", 1, time.Minute)
	if out := c.kubectl("exec", "other", "--", "echo", "done") + c.kubectl("logs", "other"); out != "donesaid" {
		t.Errorf("exec and logs of another pod: %q", out)
	}
	t.Log(c.event("writer", "Warning NFSServerAway", time.Minute))
	t.Log(c.event("late", "Warning FailedMount", time.Minute))
	if phase := c.kubectl("get", "pod", "late", "-o", "jsonpath={.status.phase} {.status.containerStatuses[0].state.waiting.reason}"); phase != "Pending ContainerCreating" {
		t.Errorf("the pod that waits for the server is %s", phase)
	}

	// Pods go: the careless one shares the export with the reader, and is held up if it has something to write just then.
	c.kubectl("delete", "pod", "careless", "--wait=false")
	c.eventually(time.Minute, "the careless pod goes, or an event says why not", func() error {
		if len(c.pods("app=careless")) == 0 {
			t.Log("the careless pod had nothing to write")
			return nil
		}
		out, err := c.events("careless")
		if !strings.Contains(out, "FailedKillPod") {
			return fmt.Errorf("%s (%v)", out, err)
		}
		t.Log(out)
		return nil
	})
	c.kubectl("delete", "pod", "reader", "--wait=false")
	c.ready("app in (careless, reader)", 0, time.Minute)
	c.unmounted(0, "", time.Minute)

	// An agent that is killed comes back, and hangs on nothing either.
	if err := c.Agents[1].Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.StartAgent(1); err != nil {
		t.Fatal(err)
	}
	c.apply(nfsPod("after", "host2", idle, "", ""))
	c.ready("app=after", 1, time.Minute)
	c.is("Running true 0", ".status.phase} {.status.containerStatuses[0].ready} {.status.containerStatuses[0].restartCount", "pod", "writer")
	said := c.synced()
	t.Logf("the server was away for %s, %d numbers were synced before", time.Since(began).Round(time.Second), said)

	c.ask("on")
	c.ready("app=late", 1, 2*time.Minute)
	c.eventually(time.Minute, "the writer goes on", func() error {
		if n := c.synced(); n <= said+5 {
			return fmt.Errorf("%d numbers are synced, %d were before", n, said)
		}
		return nil
	})
	t.Log(c.event("writer", "Normal NFSServerBack", time.Minute))
	if n := strings.Fields(c.event("writer", "Warning NFSServerAway", time.Minute))[2]; n != "1:" {
		t.Errorf("the outage was told %s times", n)
	}
	c.complete(t)
}

// synced is the last number of which the writer was told that it is on the server's disk.
func (c *nfs) synced() int {
	c.t.Helper()
	n, err := strconv.Atoi(strings.TrimPrefix(c.kubectl("logs", "--tail=1", "writer"), "synced "))
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// complete: every number is there, once, in order.
func (c *nfs) complete(t *testing.T) {
	want := c.synced()
	lines := strings.Fields(c.kubectl("exec", "late", "--", "cat", "/data/numbers"))
	if len(lines) < want {
		t.Errorf("%d numbers were synced, %d are there", want, len(lines))
	}
	for i, line := range lines {
		if line != strconv.Itoa(i+1) {
			t.Fatalf("line %d of %d is %q", i+1, len(lines), line)
		}
	}
	t.Logf("%d numbers were synced, and all are there", want)
	writer := c.pods("app=writer")
	if n := restarts(writer); n != 0 || writer[0].Status.Phase != corev1.PodRunning {
		t.Errorf("the writer was restarted %d times", n)
	}
}

// unmounted waits until no export is mounted on a host, of all or of one volume.
func (c *nfs) unmounted(host int, volume string, patience time.Duration) {
	c.t.Helper()
	c.eventually(patience, "nothing is mounted on "+c.Hosts[host].Name, func() error {
		out, err := c.Hosts[host].Run(c.ctx, "cat", "/proc/self/mountinfo")
		for line := range strings.Lines(out) {
			if strings.Contains(line, " nfs4 ") && strings.Contains(line, volume) {
				return fmt.Errorf("%s", line)
			}
		}
		return err
	})
}
