package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bramble.dev/test/hosts"
)

// Claims of the course's manifests and of a StatefulSet: bound, grown, kept from pod to pod, and removed on a node that was away
// when they were deleted.
func TestStorage(t *testing.T) {
	t.Parallel() // most of it is waiting
	c := start(t, 2, hosts.ClusterOptions{Images: []string{image("busybox")}})
	c.seedVolumes(t)
	c.statefulVolumes(t)
	c.otherDrivers()
}

// is fails the test when a field does not become what is wanted.
func (c *cluster) is(want, path string, args ...string) {
	c.t.Helper()
	c.eventually(time.Minute, strings.Join(args, " ")+" has "+want, func() error {
		got, err := c.Kubectl(c.ctx, append(append([]string{"get"}, args...), "-o", "jsonpath={"+path+"}")...)
		if err != nil || strings.TrimSpace(got) != want {
			return fmt.Errorf("%s is %q (%v)", path, got, err)
		}
		return nil
	})
}

// The course's claim waits for a pod, its volume for a claim, and its class for a cloud.
func (c *cluster) seedVolumes(t *testing.T) {
	for _, name := range []string{"10-persistentvolumeclaim.yaml", "11-persistentvolume.yaml", "12-storageclass.yaml"} {
		c.kubectl("apply", "-f", manifest(name))
	}
	c.is("Available", ".status.phase", "pv", "pv0001")
	c.is("local", ".spec.storageClassName", "pvc", "myclaim-1")
	c.apply(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: ebs}
spec: {accessModes: [ReadWriteOnce], storageClassName: standard, resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: exact}
spec: {accessModes: [ReadWriteOnce], storageClassName: "", resources: {requests: {storage: 3Gi}}}
`)
	c.is("Bound", ".status.phase", "pv", "pv0001") // the claim without a class takes it
	c.is("pv0001", ".spec.volumeName", "pvc", "exact")
	c.eventually(time.Minute, "an event names the missing driver", func() error {
		if out := c.kubectl("describe", "pvc", "ebs"); !strings.Contains(out, "Bramble has no driver for kubernetes.io/aws-ebs") {
			return missing{"driver", out}
		}
		return nil
	})
	if phase := c.kubectl("get", "pvc", "ebs", "-o", "jsonpath={.status.phase}"); phase != "Pending" {
		t.Errorf("the cloud's claim is %s", phase)
	}
	c.kubectl("delete", "pvc", "exact", "ebs")
	c.is("Released", ".status.phase", "pv", "pv0001")
	c.kubectl("delete", "pv", "pv0001")
}

func (c *cluster) statefulVolumes(t *testing.T) {
	c.apply(`
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: kept}
provisioner: bramble.dev/local
reclaimPolicy: Retain
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 1
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 0
      securityContext: {runAsUser: 1000, fsGroup: 2000}
      containers:
      - name: main
        image: busybox
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "date >>/data/starts; date >>/kept/starts; sleep 10000"]
        volumeMounts: [{name: data, mountPath: /data, subPath: inner}, {name: kept, mountPath: /kept}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
  - metadata: {name: kept}
    spec: {accessModes: [ReadWriteOnce], storageClassName: kept, resources: {requests: {storage: 1Gi}}}
`)
	node := c.ready("app=db", 1, time.Minute)[0].Spec.NodeName
	c.kubectl("delete", "pod", "db-0")
	again := c.ready("app=db", 1, time.Minute)[0]
	if again.Spec.NodeName != node {
		t.Errorf("the pod is on %s, its volume on %s", again.Spec.NodeName, node)
	}
	if starts := c.kubectl("exec", "db-0", "--", "sh", "-c", "cat /data/starts | wc -l; cat /kept/starts | wc -l"); starts != "2\n2" {
		t.Errorf("starts that the volumes know of: %q, want 2 and 2", starts)
	}
	c.kubectl("patch", "pvc", "data-db-0", "-p", `{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`)
	c.is("2Gi", ".status.capacity.storage", "pvc", "data-db-0")

	// A claim stays while a pod has it; what was in its volume goes when its node is back.
	data := c.kubectl("get", "pvc", "data-db-0", "-o", "jsonpath={.spec.volumeName}")
	kept := c.kubectl("get", "pvc", "kept-db-0", "-o", "jsonpath={.spec.volumeName}")
	c.kubectl("delete", "pvc", "data-db-0", "kept-db-0", "--wait=false")
	if claims := c.kubectl("get", "pvc"); strings.Count(claims, "Terminating") != 2 {
		t.Errorf("claims in use:\n%s", claims)
	}
	i := c.agentOf(node)
	folder := func(name string) string { return c.Hosts[i].Data("agent", "local-volumes", name) }
	c.kubectl("scale", "statefulset", "db", "--replicas=0")
	c.is("", ".items[*].metadata.name", "pods", "-l", "app=db")
	if err := c.Agents[i].Kill(); err != nil {
		t.Fatal(err)
	}
	c.is("Released", ".status.phase", "pv", kept)
	if err := c.StartAgent(i); err != nil {
		t.Fatal(err)
	}
	c.eventually(time.Minute, "the volume is gone", func() error {
		if out, err := c.Kubectl(c.ctx, "get", "pv", data); err == nil {
			return missing{"removal", out}
		}
		return nil
	})
	if _, err := os.Stat(folder(data)); !os.IsNotExist(err) {
		t.Errorf("the folder of a deleted volume: %v", err)
	}
	if _, err := os.Stat(filepath.Join(folder(kept), "starts")); err != nil {
		t.Errorf("the data of a volume that is to be kept: %v", err)
	}
	c.kubectl("delete", "pv", kept)
	if _, err := os.Stat(folder(kept)); err != nil {
		t.Errorf("the data of a kept volume is gone with it: %v", err)
	}
}

// agentOf is the agent that runs a node.
func (c *cluster) agentOf(node string) int {
	c.t.Helper()
	for i, h := range c.Hosts {
		if h.Name == node {
			return i
		}
	}
	c.t.Fatalf("no host is called %s", node)
	return 0
}

// A pod with a volume of another driver waits, and is told what to use.
func (c *cluster) otherDrivers() {
	c.apply(`
apiVersion: v1
kind: Pod
metadata: {name: ceph}
spec:
  containers: [{name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "1"], volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, rbd: {monitors: ["192.0.2.1:6789"], image: disk}}]
`)
	c.describes("ceph", "FailedMount", "the driver for rbd volumes (rbd.csi.ceph.com) is not part of Bramble: use a PersistentVolumeClaim")
}
