package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bramble.dev/runtime/testimage"
)

// BenchmarkStart compares a pod's start (sandbox, pause, one container; the image is there) with a bare `runc run` of
// the same image and command, by turns, and reports the medians and their ratio, for which the budget is 2:
//
//	go test ./runtime/engine -run '^$' -bench Start -benchtime 30x
func BenchmarkStart(b *testing.B) {
	e := openEngine(b, config(b))
	importImage(b, e, testImage, testimage.Options{})
	ctx := context.Background()
	dir, ns := bareBundle(b, e), netns(b)
	var bare, sandboxes, whole []float64
	for i := 0; b.Loop(); i++ {
		id, root := fmt.Sprintf("bare%d", i), filepath.Join(dir, "root")
		run := exec.Command(e.cfg.Runc, "--root", root, "run", "--detach", "--pid-file", filepath.Join(dir, "pid"), "--bundle", dir, id)
		t := time.Now()
		if err := run.Run(); err != nil {
			b.Fatal(err)
		}
		bare = append(bare, time.Since(t).Seconds()*1000)
		if out, err := exec.Command(e.cfg.Runc, "--root", root, "delete", "--force", id).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		pod := testPod(fmt.Sprintf("bench-%d", i), sh("sleep 1000"))
		t = time.Now()
		s, err := e.RunSandbox(ctx, SandboxSpec{Pod: pod, Hostname: pod.Name, NetNS: ns})
		if err != nil {
			b.Fatal(err)
		}
		sandboxes = append(sandboxes, time.Since(t).Seconds()*1000)
		if _, err := e.StartContainer(ctx, s.ID, containerSpec(e, pod, 0)); err != nil {
			b.Fatal(err)
		}
		whole = append(whole, time.Since(t).Seconds()*1000)
		if err := e.RemoveSandbox(ctx, s.ID); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(median(bare), "runc-ms")
	b.ReportMetric(median(sandboxes), "sandbox-ms")
	b.ReportMetric(median(whole), "pod-ms")
	b.ReportMetric(median(whole)/median(bare), "ratio")
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// BenchmarkExec runs a command in a container, as a probe does.
func BenchmarkExec(b *testing.B) {
	e := openEngine(b, config(b))
	importImage(b, e, testImage, testimage.Options{})
	pod := testPod("exec", sh("sleep 1000"))
	c := start(b, e, runSandbox(b, e, pod), pod, 0)
	for b.Loop() {
		if code, err := e.Exec(context.Background(), c.ID, []string{"true"}, Streams{}); err != nil || code != 0 {
			b.Fatal(code, err)
		}
	}
}

// bareBundle makes a bundle as `runc spec` would, on an overlay of the image.
func bareBundle(b *testing.B, e *Engine) string {
	dir := b.TempDir()
	img, _ := e.images.Resolve(testImage)
	root, err := e.snap.Mount("bare", img.Layers)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.snap.Unmount("bare") })
	if out, err := exec.Command(e.cfg.Runc, "spec", "--bundle", dir).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		b.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(raw, &spec); err != nil {
		b.Fatal(err)
	}
	spec.Process.Args, spec.Process.Terminal, spec.Process.Rlimits, spec.Root.Path = []string{"sh", "-c", "sleep 1000"}, false, nil, root
	spec.Linux.CgroupsPath = e.cgroup.Path("bare")
	if raw, err = json.Marshal(spec); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), raw, 0o600); err != nil {
		b.Fatal(err)
	}
	return dir
}
