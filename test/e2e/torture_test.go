package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"bramble.dev/test/hosts"
)

// Agents, shims and containers are killed at random. In the end state matches desire, nothing is left of what died, and no
// container was replaced whose own process and shim were not killed. Short here; scripts/torture SECONDS SEED is longer,
// with more pods.
func TestTorture(t *testing.T) {
	patience, size, seed := 6*time.Second, 2, uint64(time.Now().UnixNano())
	if s, err := strconv.Atoi(os.Getenv("BRAMBLE_TORTURE_SECONDS")); err == nil {
		patience, size = time.Duration(s)*time.Second, 12
	}
	if s, err := strconv.ParseUint(os.Getenv("BRAMBLE_TORTURE_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("seed %d", seed)
	c := start(t, 3, hosts.ClusterOptions{Images: []string{image("nginx"), image("busybox")}})
	empty := c.inventory()
	c.apply(tortured(size))
	c.allReady(3 * time.Minute)

	x := &torture{cluster: c, random: rand.New(rand.NewPCG(seed, 0)), hurt: map[string]bool{}, seen: map[string]string{}}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		time.Sleep(time.Duration(200+x.random.IntN(1000)) * time.Millisecond)
		x.kill()
	}
	t.Logf("killed: %v", x.killed)
	c.allReady(8 * time.Minute) // containers that were killed again and again are backed off from
	x.verify()

	c.kubectl("delete", "deployment,statefulset,daemonset,service,configmap", "-l", "torture=yes", "--wait=true")
	c.eventually(2*time.Minute, "nothing is left of the pods", func() error {
		now := c.inventory()
		var left []string
		for host, lines := range now {
			for line, n := range lines {
				if n != empty[host][line] {
					left = append(left, fmt.Sprintf("%s: %s (%d, before %d)", host, line, n, empty[host][line]))
				}
			}
		}
		if slices.Sort(left); len(left) > 0 {
			return fmt.Errorf("%d things:\n%s", len(left), strings.Join(left[:min(len(left), 30)], "\n"))
		}
		return nil
	})
}

// tortured is what is killed: with size 12, 51 pods of several kinds.
func tortured(size int) string {
	pod := func(app, spec string) string {
		return fmt.Sprintf(`
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s, torture: "yes"}}
    spec:
      terminationGracePeriodSeconds: 1
      %[2]s`, app, spec)
	}
	const sleeps = `command: [sleep, "1000000"]`
	parts := []string{
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: told, labels: {torture: "yes"}}, data: {a: b}}`,
		`{apiVersion: v1, kind: Service, metadata: {name: web, labels: {torture: "yes"}}, spec: {selector: {app: web}, ports: [{port: 80}]}}`,
		`{apiVersion: v1, kind: Service, metadata: {name: db, labels: {torture: "yes"}}, spec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}]}}`,
	}
	for _, w := range []struct{ kind, name, more, spec string }{
		{"Deployment", "web", fmt.Sprintf("replicas: %d", size), `volumes: [{name: told, configMap: {name: told}}]
      containers: [{name: main, image: "nginx:1.7.9", imagePullPolicy: IfNotPresent, volumeMounts: [{name: told, mountPath: /told}], readinessProbe: {httpGet: {port: 80}, periodSeconds: 2, timeoutSeconds: 10, failureThreshold: 10}}]`},
		{"Deployment", "probed", fmt.Sprintf("replicas: %d", size), `volumes: [{name: empty, emptyDir: {}}]
      containers: [{name: main, image: busybox, imagePullPolicy: IfNotPresent, ` + sleeps + `, volumeMounts: [{name: empty, mountPath: /empty}], livenessProbe: {exec: {command: ["true"]}, periodSeconds: 5, timeoutSeconds: 30, failureThreshold: 10}}]`},
		{"Deployment", "two", fmt.Sprintf("replicas: %d", size), `volumes: [{name: memory, emptyDir: {medium: Memory}}]
      containers:
      - {name: one, image: busybox, imagePullPolicy: IfNotPresent, ` + sleeps + `, volumeMounts: [{name: memory, mountPath: /memory}]}
      - {name: other, image: busybox, imagePullPolicy: IfNotPresent, ` + sleeps + `, volumeMounts: [{name: memory, mountPath: /memory}]}`},
		{"StatefulSet", "db", fmt.Sprintf("replicas: %d\n  serviceName: db\n  podManagementPolicy: Parallel", size), `volumes: [{name: empty, emptyDir: {}}]
      containers: [{name: main, image: busybox, imagePullPolicy: IfNotPresent, ` + sleeps + `, volumeMounts: [{name: empty, mountPath: /empty}]}]`},
		{"DaemonSet", "everywhere", "minReadySeconds: 0", `volumes: [{name: host, hostPath: {path: /tmp}}]
      containers: [{name: main, image: busybox, imagePullPolicy: IfNotPresent, ` + sleeps + `, volumeMounts: [{name: host, mountPath: /host}]}]`},
	} {
		parts = append(parts, fmt.Sprintf("apiVersion: apps/v1\nkind: %s\nmetadata: {name: %s, labels: {torture: \"yes\"}}\nspec:\n  %s%s", w.kind, w.name, w.more, pod(w.name, w.spec)))
	}
	return strings.Join(parts, "\n---\n")
}

// allReady waits until every workload has what it wants, and every pod is ready.
func (c *cluster) allReady(patience time.Duration) {
	c.t.Helper()
	c.eventually(patience, "all workloads are as they should be", func() error {
		out, err := c.Kubectl(c.ctx, "get", "deployment,statefulset,daemonset", "-o", `jsonpath={range .items[*]}{.kind}/{.metadata.name} {.spec.replicas}{.status.desiredNumberScheduled} {.status.readyReplicas}{.status.numberReady}{"\n"}{end}`)
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) != 3 || f[1] != f[2] || f[1] == "0" {
				return fmt.Errorf("workload, wanted, ready: %s", strings.TrimSpace(line))
			}
		}
		pods, err := c.listPods("torture=yes")
		if err != nil {
			return err
		}
		for _, p := range pods {
			if !isReady(p) {
				return fmt.Errorf("pod %s is not ready", p.Name)
			}
		}
		return nil
	})
}

// torture kills, and remembers whom.
type torture struct {
	*cluster
	random *rand.Rand
	hurt   map[string]bool   // containers whose process or shim was killed
	seen   map[string]string // every container that ever ran -> pod
	killed map[string]int
}

// running is a container's process or a shim of this lab.
type running struct {
	pid            int
	container, pod string // of a container; the pod of a shim as well
}

var (
	ofContainer = regexp.MustCompile(`/bramble-[0-9a-f]+/pod[0-9a-f-]+_([0-9a-f]+)/([0-9a-f]{64})`)
	ofShim      = regexp.MustCompile(`-d/run/bramble-[0-9a-f]+/([0-9a-f]+)`)
)

// look finds what runs. Of a container it is the first process: the one whose parent is no process of the container.
func (x *torture) look() (containers, shims []running) {
	lab := "/" + filepath.Base(x.Dir()) + "/"
	procs, _ := filepath.Glob("/proc/[0-9]*")
	slices.Sort(procs) // so that the seed decides
	first := map[string]bool{}
	for _, dir := range procs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		groups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if !strings.Contains(string(groups), lab) {
			continue
		}
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		program, _, _ := strings.Cut(string(args), "\x00")
		if m := ofContainer.FindStringSubmatch(string(groups)); m != nil {
			if filepath.Base(program) == "runc" || len(args) == 0 || strings.HasPrefix(program, "/proc/self") {
				continue // it is just being made
			}
			if !first[m[2]] {
				first[m[2]] = true
				containers = append(containers, running{pid: pid, container: m[2], pod: m[1]})
				x.seen[m[2]] = m[1]
			}
		} else if m := ofShim.FindSubmatch(args); m != nil && filepath.Base(program) == "bramble-shim" {
			shims = append(shims, running{pid: pid, pod: string(m[1])})
		}
	}
	return containers, shims
}

// kill kills one thing.
func (x *torture) kill() {
	if x.killed == nil {
		x.killed = map[string]int{}
	}
	containers, shims := x.look()
	what := x.random.IntN(3)
	switch {
	case what == 0:
		i := x.random.IntN(len(x.Agents))
		if err := x.Agents[i].Kill(); err != nil {
			x.t.Fatal(err)
		}
		x.killed["agents"]++
		time.Sleep(time.Duration(x.random.IntN(1000)) * time.Millisecond)
		if err := x.StartAgent(i); err != nil {
			x.t.Fatal(err)
		}
	case what == 1 && len(shims) > 0:
		s := shims[x.random.IntN(len(shims))]
		for _, c := range containers {
			x.hurt[c.container] = x.hurt[c.container] || c.pod == s.pod
		}
		_ = syscall.Kill(s.pid, syscall.SIGKILL) // it may just have ended
		x.killed["shims"]++
		x.hurtPod(s.pod) // what was started meanwhile
	case len(containers) > 0:
		c := containers[x.random.IntN(len(containers))]
		x.hurt[c.container] = true
		_ = syscall.Kill(c.pid, syscall.SIGKILL)
		x.killed["containers"]++
	}
}

func (x *torture) hurtPod(pod string) {
	containers, _ := x.look()
	for _, c := range containers {
		if c.pod == pod {
			x.hurt[c.container] = true
		}
	}
}

// verify: what was not hurt still runs, and there is one shim for each pod.
func (x *torture) verify() {
	x.t.Helper()
	containers, shims := x.look()
	now := map[string]bool{}
	for _, c := range containers {
		now[c.container] = true
	}
	spared := 0
	for id, pod := range x.seen {
		if x.hurt[id] {
			continue
		}
		spared++
		if !now[id] {
			x.t.Errorf("container %s (sandbox %s) was replaced, and neither it nor its shim was killed", id[:12], pod)
		}
	}
	x.t.Logf("%d containers ran, %d were hurt, %d were not", len(x.seen), len(x.seen)-spared, spared)
	pods := x.pods("torture=yes")
	if len(shims) != len(pods) {
		x.t.Errorf("%d shims for %d pods", len(shims), len(pods))
	}
	for _, p := range pods {
		for _, s := range p.Status.ContainerStatuses {
			id := strings.TrimPrefix(s.ContainerID, "bramble://")
			if !now[id] {
				x.t.Errorf("%s: the API says that container %s runs, and it does not", p.Name, s.ContainerID)
			}
		}
	}
}

// inventory counts what pods leave behind when they are not removed well: host -> line -> how often.
func (c *cluster) inventory() map[string]map[string]int {
	c.t.Helper()
	const script = `
cut -d' ' -f2 /proc/self/mounts | grep -E '^/var/lib/bramble/|^/run/bramble' | sed 's/^/mount /'
ip -o link | cut -d: -f2 | cut -d@ -f1 | sed 's/^/interface /'
for d in volumes runtime/snapshots runtime/pods mesh/netns mesh/ipam/leases pods; do ls /var/lib/bramble/agent/$d 2>/dev/null | sed "s,^,file $d/,"; done
find /run/bramble-* -mindepth 1 -maxdepth 2 2>/dev/null | grep -v '/runc$' | sed 's/^/file /' # runc's own folder stays, empty
find /sys/fs/cgroup -type d -path '*/bramble-*/*' | sed 's/^/cgroup /'
ps -e -o comm= | grep -E '^(bramble-shim|bramble-pause|runc|sleep|nginx)' | sed 's/^/process /'
nft list ruleset | sed 's/counter packets [0-9]* bytes [0-9]*//g; s/[{},]/\n/g' | sed 's/^[[:space:]]*//; s/[[:space:]]*$//; /^$/d; s/^/nftables /'
true`
	all := map[string]map[string]int{}
	for _, h := range c.Hosts {
		out, err := h.Run(c.ctx, "sh", "-c", script)
		if err != nil {
			c.t.Fatal(err)
		}
		all[h.Name] = map[string]int{}
		for line := range strings.Lines(out) {
			all[h.Name][strings.TrimSpace(line)]++
		}
	}
	return all
}
