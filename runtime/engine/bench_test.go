package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"bramble.dev/runtime/testimage"
)

// BenchmarkStart compares a pod's start (sandbox, pause, one container; the image is there) with a bare `runc run` of
// the same image and command, which the budget is a multiple of:
//
//	go test ./runtime/engine -run '^$' -bench Start -benchtime 30x
func BenchmarkStart(b *testing.B) {
	e := openEngine(b, config(b))
	importImage(b, e, testImage, testimage.Options{})
	ctx := context.Background()
	b.Run("what=runc", func(b *testing.B) {
		dir := bareBundle(b, e)
		for i := 0; b.Loop(); i++ {
			id := fmt.Sprintf("bare%d", i)
			pid := filepath.Join(dir, "pid")
			run := exec.Command(e.cfg.Runc, "--root", filepath.Join(dir, "root"), "run", "--detach", "--pid-file", pid, "--bundle", dir, id)
			run.Stdout, run.Stderr = nil, nil
			if err := run.Run(); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if out, err := exec.Command(e.cfg.Runc, "--root", filepath.Join(dir, "root"), "delete", "--force", id).CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
			b.StartTimer()
		}
	})
	b.Run("what=pod", func(b *testing.B) {
		ns := netns(b)
		var sandboxes, containers time.Duration
		for i := 0; b.Loop(); i++ {
			pod := testPod(fmt.Sprintf("bench-%d", i), sh("sleep 1000"))
			t0 := time.Now()
			s, err := e.RunSandbox(ctx, SandboxSpec{Pod: pod, Hostname: pod.Name, NetNS: ns})
			if err != nil {
				b.Fatal(err)
			}
			t1 := time.Now()
			if _, err := e.StartContainer(ctx, s.ID, containerSpec(e, pod, 0)); err != nil {
				b.Fatal(err)
			}
			sandboxes += t1.Sub(t0)
			containers += time.Since(t1)
			b.StopTimer()
			if err := e.RemoveSandbox(ctx, s.ID); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		b.ReportMetric(float64(sandboxes.Milliseconds())/float64(b.N), "sandbox-ms")
		b.ReportMetric(float64(containers.Milliseconds())/float64(b.N), "container-ms")
	})
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
	make := exec.Command(e.cfg.Runc, "spec", "--bundle", dir)
	if out, err := make.CombinedOutput(); err != nil {
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
	raw, err = json.Marshal(spec)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), raw, 0o600); err != nil {
		b.Fatal(err)
	}
	return dir
}
