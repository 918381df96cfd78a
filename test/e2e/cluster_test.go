// Package e2e proves the main job on real parts: three hosts (namespaces that share the kernel and the link), the built
// executables, real images, real runc, nftables and kubectl. One file for each claim.
//
//	scripts/test e2e                                all of them
//	scripts/test e2e TestMainJob                    one
//	BRAMBLE_KEEP=1 scripts/test e2e TestMainJob     and the hosts' folders stay, to be looked at
package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/test/hosts"
)

// TestMain: these tests need root, bin/ and build/images, which scripts/test prepares before it asks for them. By hand,
// with the tests of all packages, they say so and do nothing.
func TestMain(m *testing.M) {
	if os.Getenv("BRAMBLE_E2E") == "" {
		fmt.Println("e2e: not run: use scripts/test, which prepares what these tests need")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var root = func() string {
	dir, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return dir
}()

func image(name string) string { return filepath.Join(root, "build/images", name+".tar") }

func manifest(name string) string { return filepath.Join(root, "configs/manifests", name) }

// cluster is a running cluster and what tests say about it.
type cluster struct {
	*hosts.Cluster
	t   *testing.T
	ctx context.Context
}

// start makes hosts and a cluster on them. When the test fails, the end of every log is shown.
func start(t *testing.T, count int, o hosts.ClusterOptions) *cluster {
	t.Helper()
	lab := newLab(t, count)
	return startOn(t, lab, o)
}

func newLab(t *testing.T, count int) *hosts.Lab {
	t.Helper()
	lab, err := hosts.New(hosts.Options{Hosts: count, Keep: os.Getenv("BRAMBLE_KEEP") != ""})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			showLogs(t, lab.Dir())
		}
		if err := lab.Close(); err != nil {
			t.Errorf("something is left behind: %v", err)
		}
	})
	return lab
}

func startOn(t *testing.T, lab *hosts.Lab, o hosts.ClusterOptions) *cluster {
	t.Helper()
	limit := 15 * time.Minute
	if os.Getenv("BRAMBLE_PATIENCE") != "" {
		limit *= 3 // an emulated machine
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	if o.Bin == "" {
		o.Bin = filepath.Join(root, "bin")
	}
	if o.Images == nil {
		o.Images = []string{image("nginx"), image("nginx-new"), image("busybox")}
	}
	c, err := hosts.StartCluster(ctx, lab, o)
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{Cluster: c, t: t, ctx: ctx}
}

func showLogs(t *testing.T, dir string) {
	logs, _ := filepath.Glob(filepath.Join(dir, "logs", "*.log"))
	for _, path := range logs {
		data, _ := os.ReadFile(path)
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		t.Logf("the end of %s:\n%s", filepath.Base(path), strings.Join(lines[max(0, len(lines)-25):], "\n"))
	}
}

// kubectl must succeed; it returns what was printed.
func (c *cluster) kubectl(args ...string) string {
	c.t.Helper()
	out, err := c.Kubectl(c.ctx, args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// apply must succeed.
func (c *cluster) apply(manifest string) {
	c.t.Helper()
	if err := c.Apply(c.ctx, manifest); err != nil {
		c.t.Fatal(err)
	}
}

// eventually fails the test when do does not succeed in time.
func (c *cluster) eventually(patience time.Duration, what string, do func() error) {
	c.t.Helper()
	if err := hosts.Eventually(c.ctx, patience, do); err != nil {
		pods, _ := c.Kubectl(c.ctx, "get", "pods", "-A", "-o", "wide")
		events, _ := c.Kubectl(c.ctx, "get", "events", "-A", "--sort-by=.lastTimestamp")
		c.t.Fatalf("%s: %v\n%s\n%s", what, err, pods, tail(events, 20))
	}
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// pods with a label, sorted by name as the server lists them.
func (c *cluster) pods(selector string) []corev1.Pod {
	c.t.Helper()
	pods, err := c.listPods(selector)
	if err != nil {
		c.t.Fatal(err)
	}
	return pods
}

func (c *cluster) listPods(selector string) ([]corev1.Pod, error) {
	out, err := c.Kubectl(c.ctx, "get", "pods", "-l", selector, "-o", "json")
	if err != nil {
		return nil, err
	}
	var list corev1.PodList
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, err
	}
	return list.Items, nil
}

// ready waits for exactly count pods of the selector, all Ready, and returns them.
func (c *cluster) ready(selector string, count int, patience time.Duration) []corev1.Pod {
	c.t.Helper()
	var pods []corev1.Pod
	c.eventually(patience, fmt.Sprintf("%d ready pods of %s", count, selector), func() (err error) {
		if pods, err = c.listPods(selector); err != nil {
			return err
		}
		ready := 0
		for _, p := range pods {
			if isReady(p) {
				ready++
			}
		}
		if ready != count || len(pods) != count {
			return fmt.Errorf("%d of %d pods are ready", ready, len(pods))
		}
		return nil
	})
	return pods
}

func isReady(p corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil
		}
	}
	return false
}

// nodes counts the pods on each node.
func nodes(pods []corev1.Pod) map[string]int {
	m := map[string]int{}
	for _, p := range pods {
		m[p.Spec.NodeName]++
	}
	return m
}

// restarts of all containers of the pods.
func restarts(pods []corev1.Pod) int {
	n := 0
	for _, p := range pods {
		for _, s := range p.Status.ContainerStatuses {
			n += int(s.RestartCount)
		}
	}
	return n
}
