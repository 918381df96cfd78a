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

// Debian's kubectl (1.20) and the built-in one both do the daily work.
func TestKubectl(t *testing.T) {
	t.Parallel() // most of it is waiting
	c := start(t, 2, hosts.ClusterOptions{})
	old := os.Getenv("BRAMBLE_KUBECTL_OLD")
	if old == "" {
		t.Fatal("BRAMBLE_KUBECTL_OLD is not set: scripts/test unpacks Debian's kubernetes-client and sets it")
	}
	for _, k := range []struct{ name, program string }{{"debian", old}, {"built-in", c.Program("kubectl")}} {
		t.Run(k.name, func(t *testing.T) { c.daily(t, k.program) })
	}
}

// daily is the work of a day, with what each command must print.
func (c *cluster) daily(t *testing.T, program string) {
	out, err := c.KubectlWith(c.ctx, program, "", "apply", "-f", manifest("01-deployment.yaml"))
	if err != nil || !strings.Contains(out, "deployment.apps/nginx-deployment created") {
		t.Fatalf("apply: %v %s", err, out)
	}
	pods := c.ready("app=nginx", 3, 90*time.Second)
	pod := pods[0].Name
	const deployment = "deployment/nginx-deployment"
	for _, step := range []struct {
		args string
		want []string
	}{
		{"version", []string{"Server Version"}},
		{"get nodes -o wide", []string{"host1", "Ready", c.Hosts[1].IP.String(), "INTERNAL-IP", "CONTAINER-RUNTIME"}},
		{"get deployments -o wide", []string{"READY", "3/3", "nginx:1.7.9", "app=nginx"}},
		{"get pods -o wide", []string{"NOMINATED NODE", pods[0].Status.PodIP, pods[0].Spec.NodeName, "Running"}},
		{"get all", []string{"replicaset.apps/nginx-deployment-", deployment[:10]}},
		{"describe pod " + pod, []string{"Node:", "nginx:1.7.9", "Events:", "Started"}},
		{"describe " + deployment, []string{"3 desired", "RollingUpdate", "ScalingReplicaSet"}},
		{"logs " + pod, []string{"start worker process"}},
		{"exec " + pod + " -- hostname", []string{pod}},
		{"exec " + pod + " -- sh -c exit", nil},
		{"top node", []string{"CPU(cores)", "host1", "host2", "Mi"}},
		{"top pod " + pod + " --containers", []string{"NAME", "nginx ", "Mi"}},
		{"top pod -l app=nginx", []string{"MEMORY(bytes)", pod, pods[1].Name}},
		{"scale " + deployment + " --replicas=2", []string{"scaled"}},
		{"rollout status " + deployment + " --timeout=60s", []string{"successfully rolled out"}},
		{"set image " + deployment + " nginx=nginx:1.9.1", []string{"image updated"}},
		{"rollout status " + deployment + " --timeout=90s", []string{"successfully rolled out"}},
		{"rollout undo " + deployment, []string{"rolled back"}},
		{"rollout status " + deployment + " --timeout=90s", []string{"successfully rolled out"}},
		{"get " + deployment + " -o jsonpath={.spec.template.spec.containers[0].image}", []string{"nginx:1.7.9"}},
		{"delete " + deployment, []string{"deleted"}},
	} {
		out, err := c.KubectlWith(c.ctx, program, "", strings.Fields(step.args)...)
		if err != nil {
			t.Errorf("kubectl %s: %v", step.args, err)
			continue
		}
		for _, w := range step.want {
			if !strings.Contains(out, w) {
				t.Errorf("kubectl %s does not say %q:\n%s", step.args, w, out)
			}
		}
	}
	c.exitCodes(t, program)
	c.ready("app=nginx", 0, time.Minute)
}

// exitCodes of what runs in a pod come back, and standard input goes there.
func (c *cluster) exitCodes(t *testing.T, program string) {
	if err := c.Apply(c.ctx, `
apiVersion: v1
kind: Pod
metadata: {name: shell, labels: {app: shell}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "1000000"]}]
`); err != nil {
		t.Fatal(err)
	}
	c.ready("app=shell", 1, time.Minute)
	if _, err := c.KubectlWith(c.ctx, program, "", "exec", "shell", "--", "sh", "-c", "exit 42"); err == nil || !strings.Contains(err.Error(), "42") {
		t.Errorf("exit code of an exec: %v", err)
	}
	const said = "said through standard input"
	out, err := c.KubectlWith(c.ctx, program, said, "exec", "-i", "shell", "--", "cat")
	if err != nil || out != said {
		t.Errorf("standard input of an exec: %v, %q", err, out)
	}
	size := 3 << 20
	out, err = c.KubectlWith(c.ctx, program, "", "exec", "shell", "--", "sh", "-c", fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x", size))
	if err != nil || len(out) != size {
		t.Errorf("a large output: %v, %d bytes of %d", err, len(out), size)
	}
	c.copies(t, program)
	c.attaches(t, program)
	if program == c.Program("kubectl") { // Debian's has it as an alpha, by an API that is gone
		out, err := c.KubectlWith(c.ctx, program, "", "debug", "shell", "--image=busybox", "--image-pull-policy=IfNotPresent", "--target=main", "-i", "--quiet", "--", "cat", "/proc/1/cmdline")
		if err != nil || !strings.Contains(out, "sleep\x001000000") {
			t.Errorf("debug beside the pod's process: %v, %q", err, out)
		}
	}
	c.drains(t, program)
}

// copies files to a pod and back.
func (c *cluster) copies(t *testing.T, program string) {
	dir := t.TempDir()
	text := strings.Repeat("a line of a file\n", 100_000)
	if err := os.MkdirAll(filepath.Join(dir, "in"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "in", "file"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"cp", filepath.Join(dir, "in"), "shell:/tmp/in"}, {"cp", "shell:/tmp/in", filepath.Join(dir, "out")}} {
		if out, err := c.KubectlWith(c.ctx, program, "", args...); err != nil {
			t.Errorf("%v: %v %s", args, err, out)
		}
	}
	if got, err := os.ReadFile(filepath.Join(dir, "out", "file")); err != nil || string(got) != text {
		t.Errorf("what was copied to a pod and back: %v, %d bytes of %d", err, len(got), len(text))
	}
}

// attaches to what runs: it reads what is said, and its answer comes back.
func (c *cluster) attaches(t *testing.T, program string) {
	if err := c.Apply(c.ctx, `
apiVersion: v1
kind: Pod
metadata: {name: reader, labels: {app: reader}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: busybox, imagePullPolicy: IfNotPresent, stdin: true, stdinOnce: true, command: [sh, -c, "read line; echo heard: $line"]}]
`); err != nil {
		t.Fatal(err)
	}
	c.ready("app=reader", 1, time.Minute)
	out, err := c.KubectlWith(c.ctx, program, "a word\n", "attach", "-i", "reader")
	if err != nil || !strings.Contains(out, "heard: a word") {
		t.Errorf("attach: %v, %q", err, out)
	}
	c.kubectl("delete", "pod", "reader")
}

// drains the node of the pod, which has no owner, and takes it back.
func (c *cluster) drains(t *testing.T, program string) {
	node := c.pods("app=shell")[0].Spec.NodeName
	if _, err := c.KubectlWith(c.ctx, program, "", "drain", node, "--ignore-daemonsets"); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("drain without --force: %v", err)
	}
	out, err := c.KubectlWith(c.ctx, program, "", "drain", node, "--ignore-daemonsets", "--force", "--timeout=90s")
	if err != nil || !strings.Contains(out, "pod/shell evicted") {
		t.Errorf("drain: %v, %s", err, out)
	}
	c.ready("app=shell", 0, time.Minute)
	if out, err := c.KubectlWith(c.ctx, program, "", "uncordon", node); err != nil || !strings.Contains(out, "uncordoned") {
		t.Errorf("uncordon: %v, %s", err, out)
	}
}
