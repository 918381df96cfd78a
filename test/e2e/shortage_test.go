package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bramble.dev/test/hosts"
)

// A board that runs short: the disk of the second host has 200 MiB, which a pod fills, and somebody's files; then there is too little
// memory. What may go goes in its order, and the pods beside it run on.
func TestShortage(t *testing.T) {
	t.Parallel() // most of it is waiting
	lab := newLab(t, 2)
	smallDisk(t, lab.Hosts[1], "200M")
	c := startOn(t, lab, hosts.ClusterOptions{AgentArgs: []string{"--eviction-pressure-transition-period", "4s", "--minimum-image-ttl-duration", "1s", "--system-reserved", "cpu=100m,memory=64Mi"}})
	c.apply(onHost2(`
metadata: {name: steady, labels: {app: steady}}
`, `containers: [{name: a, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "1000000"], resources: {requests: {memory: 32Mi}}}]`))
	c.ready("app=steady", 1, time.Minute)
	t.Run("node", func(t *testing.T) { c.nodeTells(t) })
	t.Run("limits", func(t *testing.T) { c.ownLimits(t) })
	t.Run("a pod fills the disk", func(t *testing.T) { c.podFillsDisk(t) })
	t.Run("others' files fill the disk", func(t *testing.T) { c.othersFillDisk(t) })
	t.Run("memory", func(t *testing.T) { c.shortOfMemory(t) })
}

// smallDisk puts a host's data folder on a file system of its own.
func smallDisk(t *testing.T, h *hosts.Host, size string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	for _, argv := range [][]string{{"truncate", "-s", size, file}, {"mkfs.ext4", "-q", "-m", "0", file}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", argv, err, out)
		}
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup: %v: %s", err, out)
		}
	})
	if out, err := h.Run(t.Context(), "mount", device, hosts.DataDir); err != nil {
		t.Fatal(err, out)
	}
}

// onHost2 is a pod for the second host.
func onHost2(metadata, spec string) string {
	return "apiVersion: v1\nkind: Pod\n" + strings.TrimSpace(metadata) + "\nspec:\n  nodeSelector: {kubernetes.io/hostname: host2}\n  restartPolicy: Never\n  " + strings.TrimSpace(spec) + "\n"
}

func (c *cluster) nodeTells(t *testing.T) {
	c.eventually(30*time.Second, "the node's Lease", func() error {
		out, err := c.Kubectl(c.ctx, "describe", "node", "host2")
		if err == nil && (strings.Contains(out, "Failed to get lease") || !strings.Contains(out, "HolderIdentity:  host2")) {
			err = fmt.Errorf("described as\n%s", out)
		}
		return err
	})
	out := c.kubectl("get", "node", "host2", "-o", "jsonpath={.status.capacity.memory} {.status.allocatable.memory} {.status.capacity.ephemeral-storage} {.status.allocatable.ephemeral-storage} {.status.capacity.cpu} {.status.allocatable.cpu}")
	var memory, freeMemory, disk, freeDisk, cpu, freeCPU int64
	if _, err := fmt.Sscanf(out, "%dKi %dKi %dKi %d %d %dm", &memory, &freeMemory, &disk, &freeDisk, &cpu, &freeCPU); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	if memory-freeMemory != 164<<10 || cpu*1000-freeCPU != 100 || disk > 200<<10 || freeDisk > disk<<10*91/100 || freeDisk < disk<<10*89/100 {
		t.Errorf("capacity and allocatable: %s", out)
	}
}

// evicted waits for a pod to be evicted for a reason.
func (c *cluster) evicted(pod, message string) {
	c.t.Helper()
	c.eventually(time.Minute, pod+" is evicted", func() error {
		out, err := c.Kubectl(c.ctx, "get", "pod", pod, "-o", "jsonpath={.status.phase} {.status.reason} {.status.message}")
		if err == nil && (!strings.HasPrefix(out, "Failed Evicted ") || !strings.Contains(out, message)) {
			err = fmt.Errorf("it is %q, want %q", out, message)
		}
		return err
	})
}

func (c *cluster) ownLimits(t *testing.T) {
	c.apply(onHost2(`metadata: {name: small-volume}`, `volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}]
  containers: [{name: a, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, "dd if=/dev/zero of=/v/x bs=1k count=3000; sleep 1000"], volumeMounts: [{name: v, mountPath: /v}]}]`))
	c.apply(onHost2(`metadata: {name: small-container}`, `containers: [{name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, "dd if=/dev/zero of=/x bs=1k count=3000; sleep 1000"],
    resources: {limits: {ephemeral-storage: 1Mi}}}, {name: side, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "1000"], resources: {limits: {ephemeral-storage: 8Mi}}}]`))
	c.apply(onHost2(`metadata: {name: within, labels: {app: within}}`, `volumes: [{name: v, emptyDir: {sizeLimit: 8Mi}}]
  containers: [{name: a, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, "dd if=/dev/zero of=/v/x bs=1k count=3000; sleep 1000"], volumeMounts: [{name: v, mountPath: /v}], resources: {limits: {ephemeral-storage: 8Mi}}}]`))
	c.evicted("small-volume", `Usage of EmptyDir volume "v" exceeds the limit "1Mi". `)
	c.evicted("small-container", `Container main exceeded its local ephemeral storage limit "1Mi". `)
	c.ready("app=within", 1, time.Second)
	if out := c.kubectl("get", "pod", "small-volume", "-o", "jsonpath={.status.conditions[?(@.type=='DisruptionTarget')]}"); out != "" {
		t.Errorf("a limit of its own is no disruption: %s", out)
	}
	c.kubectl("delete", "pod", "small-volume", "small-container", "within", "--grace-period=1")
}

// conditionOf waits for the node's condition.
func (c *cluster) conditionOf(condition, want string) {
	c.t.Helper()
	c.eventually(time.Minute, condition+" is "+want, func() error {
		out, err := c.Kubectl(c.ctx, "get", "node", "host2", "-o", "jsonpath={.status.conditions[?(@.type=='"+condition+"')].status}")
		if err == nil && out != want {
			err = fmt.Errorf("it is %q", out)
		}
		return err
	})
}

func (c *cluster) podFillsDisk(t *testing.T) {
	c.apply(onHost2(`metadata: {name: hog}`, `volumes: [{name: v, emptyDir: {}}]
  containers: [{name: a, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, "dd if=/dev/zero of=/v/x bs=64k; sleep 1000"], volumeMounts: [{name: v, mountPath: /v}]}]`))
	c.evicted("hog", "The node was low on resource: ephemeral-storage. Threshold quantity: ")
	if out := c.kubectl("get", "pod", "hog", "-o", "jsonpath={.status.conditions[?(@.type=='DisruptionTarget')].reason}"); out != "TerminationByKubelet" {
		t.Errorf("the reason of its disruption is %q", out)
	}
	c.conditionOf("DiskPressure", "False")
	out := c.kubectl("get", "events", "-A", "-o", "jsonpath={range .items[*]}{.involvedObject.name} {.reason} {.message}\n{end}")
	for _, want := range []string{"host2 EvictionThresholdMet Attempting to reclaim ephemeral-storage", "hog Evicted The node was low on resource: ephemeral-storage."} {
		if !strings.Contains(out, want) {
			t.Errorf("no event %q in\n%s", want, out)
		}
	}
	c.ready("app=steady", 1, time.Second)
	c.hasImages(t, "nginx", true) // imported by hand: the pod was enough
	c.kubectl("delete", "pod", "hog", "--grace-period=1")
}

func (c *cluster) hasImages(t *testing.T, name string, want bool) {
	t.Helper()
	out, err := c.Hosts[1].Run(c.ctx, filepath.Join(root, "bin", "bramble"), "image", "ls", "--data-dir", hosts.DataDir)
	if err != nil || strings.Contains(out, name) != want {
		t.Errorf("image %s: %v\n%s", name, err, out)
	}
}

func (c *cluster) othersFillDisk(t *testing.T) {
	const fill = `cd ` + hosts.DataDir + ` && dd if=/dev/zero of=films bs=1M count=$(( $(stat -f -c %a . ) * $(stat -f -c %S .) / 1048576 - 12 )) 2>&1`
	if out, err := c.Hosts[1].Run(c.ctx, "sh", "-c", fill); err != nil {
		t.Fatal(err, out)
	}
	c.eventually(time.Minute, "what was imported by hand, and helps, is removed and named", func() error {
		out, err := c.Kubectl(c.ctx, "get", "events", "-A", "-o", "jsonpath={range .items[*]}{.involvedObject.name} {.reason} {.message}\n{end}")
		if err == nil && !strings.Contains(out, "host2 ImportedImageRemoved Removed image docker.io/library/nginx") {
			err = fmt.Errorf("events:\n%s", tail(out, 10))
		}
		return err
	})
	c.conditionOf("DiskPressure", "False")
	c.hasImages(t, "busybox", true)
	c.ready("app=steady", 1, time.Second)
	if _, err := c.Hosts[1].Run(c.ctx, "rm", filepath.Join(hosts.DataDir, "films")); err != nil {
		t.Error(err)
	}
}

func (c *cluster) shortOfMemory(t *testing.T) {
	c.apply(onHost2(`metadata: {name: vital, namespace: kube-system, labels: {app: vital}}`, `priorityClassName: system-node-critical
  containers: [{name: a, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "1000000"]}]`))
	c.apply(onHost2(`metadata: {name: greedy, labels: {app: greedy}}`, `terminationGracePeriodSeconds: 600
  containers: [{name: a, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, "trap '' TERM; x=$(dd if=/dev/zero bs=1M count=20 | tr '\\0' x); while :; do sleep 1; done"]}]`))
	c.ready("app=greedy", 1, time.Minute)
	if err := c.Agents[1].Stop(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := c.StartAgent(1, "--eviction-hard", "memory.available<99%"); err != nil {
		t.Fatal(err)
	}
	c.evicted("greedy", "The node was low on resource: memory. Threshold quantity: ")
	c.evicted("steady", "The node was low on resource: memory. Threshold quantity: ") // the last, for it uses less than it asked for
	c.conditionOf("MemoryPressure", "True")
	if out := c.kubectl("get", "pod", "greedy", "-o", "jsonpath={.status.message}"); !strings.Contains(out, "Container a was using ") || !strings.Contains(out, ", request is 0, has larger consumption of memory.") {
		t.Errorf("why: %s", out)
	}
	if out := c.kubectl("get", "pod", "-n", "kube-system", "vital", "-o", "jsonpath={.status.phase}"); out != "Running" {
		t.Errorf("a pod that the node cannot do without is %s", out)
	}
	c.apply(strings.Replace(onHost2(`metadata: {name: refused}`, `containers: [{name: a, image: busybox, imagePullPolicy: IfNotPresent}]`), "nodeSelector: {kubernetes.io/hostname: host2}", "nodeName: host2", 1))
	c.evicted("refused", "Pod was rejected: The node had condition: [MemoryPressure]. ")
}
