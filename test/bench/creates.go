package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

func (b *bench) client() (kubernetes.Interface, error) { return clientOf(b.c.Kubeconfig) }

func clientOf(kubeconfig string) (kubernetes.Interface, error) {
	config, err := configOf(kubeconfig)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(config)
}

func configOf(kubeconfig string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	config.ContentType = "application/vnd.kubernetes.protobuf"
	return config, nil
}

// untilRunning creates a pod and waits for the watch event that says it runs.
func untilRunning(ctx context.Context, client kubernetes.Interface, manifest string) (time.Duration, error) {
	var pod corev1.Pod
	if err := yaml.Unmarshal([]byte(manifest), &pod); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	w, err := client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", pod.Name).String()})
	if err != nil {
		return 0, err
	}
	defer w.Stop()
	if _, err := client.CoreV1().Pods("default").Create(ctx, &pod, metav1.CreateOptions{}); err != nil {
		return 0, err
	}
	began := time.Now()
	for event := range w.ResultChan() {
		if p, ok := event.Object.(*corev1.Pod); ok && p.Status.Phase == corev1.PodRunning {
			return time.Since(began), nil
		}
	}
	return 0, errors.New("the pod did not run within a minute")
}

// rate is what writers reached.
type rate struct{ count, perSecond, bytesEach float64 }

// createFor lets writers create ConfigMaps of 1.5 KB for some seconds. pids are the processes whose writes count.
func createFor(ctx context.Context, config *rest.Config, prefix string, writers int, d time.Duration, pids ...int) (rate, error) {
	all := make([]*writer, writers)
	for i := range all {
		w, err := newWriter(config)
		if err != nil {
			return rate{}, err
		}
		defer w.close()
		all[i] = w
	}
	before := written(pids)
	var made atomic.Int64
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	began := time.Now()
	var running errgroup.Group
	for i, w := range all {
		running.Go(func() error {
			for n := 0; ctx.Err() == nil; n++ {
				if err := w.create(fmt.Sprintf("%s-%d-%d", prefix, i, n)); err != nil {
					return err
				}
				made.Add(1)
			}
			return nil
		})
	}
	if err := running.Wait(); err != nil {
		return rate{}, err
	}
	took, count := time.Since(began).Seconds(), float64(made.Load())
	return rate{count: count, perSecond: count / took, bytesEach: float64(written(pids)-before) / count}, nil
}

// written is what the processes have caused to be written to disk.
func written(pids []int) uint64 {
	total := uint64(0)
	for _, pid := range pids {
		data, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "io"))
		for _, line := range strings.Split(string(data), "\n") {
			if v, ok := strings.CutPrefix(line, "write_bytes: "); ok {
				n, _ := strconv.ParseUint(v, 10, 64)
				total += n
			}
		}
	}
	return total
}

const createTime = 20 * time.Second

// creates: durable creates a second and their bytes on disk, beside kube-apiserver and etcd in the same run.
func (b *bench) creates() error {
	config, err := configOf(b.c.Kubeconfig)
	if err != nil {
		return err
	}
	upstream, err := b.upstream()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: no reference cluster:", err)
	}
	for _, c := range []struct {
		writers int
		times   float64
	}{{1, 2}, {16, 3}} {
		r, err := createFor(b.ctx, config, fmt.Sprintf("bench-%d", c.writers), c.writers, createTime, b.c.Server.Pid())
		if err != nil {
			return err
		}
		theirs, there := upstream[c.writers]
		text, bytes := "", ""
		if there {
			text, bytes = number(theirs.perSecond)+" /s", number(theirs.bytesEach)+" bytes"
		}
		b.atLeast(fmt.Sprintf("durable creates, %d writers", c.writers), c.times*theirs.perSecond, r.perSecond, "/s", text)
		b.atMost(fmt.Sprintf("bytes to disk of each create, %d writers", c.writers), theirs.bytesEach, r.bytesEach, "bytes", bytes)
	}
	return nil
}

// upstream measures the same creates on the reference cluster, and its processes' memory.
func (b *bench) upstream() (map[int]rate, error) {
	if b.o.reference == "" {
		return nil, errors.New("not asked for")
	}
	dir := filepath.Join(b.disk.mount, "reference")
	call := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(b.ctx, b.o.reference, args...)
		cmd.Env = append(os.Environ(), "REFERENCE_DIR="+dir)
		return cmd.CombinedOutput()
	}
	defer func() {
		if out, err := call("down"); err != nil {
			fmt.Fprintf(os.Stderr, "bench: reference down: %v %s\n", err, out)
		}
	}()
	if out, err := call("up"); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	if err := b.sleep(20 * time.Second); err != nil {
		return nil, err
	}
	if out, err := call("figures"); err == nil {
		b.figures(string(out))
	}
	config, err := configOf(filepath.Join(dir, "kubeconfig"))
	if err != nil {
		return nil, err
	}
	etcd, err := os.ReadFile(filepath.Join(dir, "etcd.pid"))
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(etcd)))
	if err != nil {
		return nil, err
	}
	rates := map[int]rate{}
	for _, writers := range []int{1, 16} {
		if rates[writers], err = createFor(b.ctx, config, fmt.Sprintf("bench-%d", writers), writers, createTime, pid); err != nil {
			return nil, err
		}
	}
	return rates, nil
}

// figures takes the reference cluster's memory over into the rows of the server.
func (b *bench) figures(out string) {
	resident, anonymous := 0.0, 0.0
	for _, line := range strings.Split(out, "\n") {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] == "program" {
			continue
		}
		r, _ := strconv.ParseFloat(f[1], 64)
		a, _ := strconv.ParseFloat(f[2], 64)
		resident += r / 1024
		anonymous += a / 1024
	}
	for i, r := range b.rows {
		switch r.what {
		case "server, idle, resident":
			b.rows[i].upstream = number(resident) + " MiB (4 programs)"
		case "server, idle, anonymous":
			b.rows[i].upstream = number(anonymous) + " MiB"
		}
	}
}

// manyObjects: what 10,000 ConfigMaps more cost the server in memory.
func (b *bench) manyObjects() error {
	client, err := b.client()
	if err != nil {
		return err
	}
	if err := b.sleep(settleTime); err != nil { // what came before is given back
		return err
	}
	before, err := usageOf(b.c.Server.Pid())
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	var failed atomic.Value
	for w := range 16 {
		wg.Go(func() {
			for n := range 10_000 / 16 {
				if _, err := client.CoreV1().ConfigMaps("kube-public").Create(b.ctx, configMap(fmt.Sprintf("many-%d-%d", w, n)), metav1.CreateOptions{}); err != nil {
					failed.Store(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err, is := failed.Load().(error); is {
		return err
	}
	if err := b.sleep(settleTime); err != nil {
		return err
	}
	after, err := usageOf(b.c.Server.Pid())
	if err != nil {
		return err
	}
	b.atMost("10,000 ConfigMaps of 1.5 KB more, anonymous", 16, after.anonymous-before.anonymous, "MiB", "117 (once, 9,000)")
	return nil
}
