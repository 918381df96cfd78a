package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"bramble.dev/runtime/testimage"
)

// TestMemory measures what a pod costs beside its own processes: the shim's and the pause process' proportional
// memory, and the kernel's for both. The budget is 1.5 MiB; it does not depend on how busy the machine is.
func TestMemory(t *testing.T) {
	const pods = 20
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	// The shims inherit a memory cgroup of ours, so that the kernel counts what it holds for them.
	own := filepath.Join("/sys/fs/cgroup/memory", e.cfg.CgroupParent+"-shims")
	counted := moveHere(t, own)
	before := kernelBytes(own)
	var shims, pauses []int
	for i := range pods {
		pod := testPod(fmt.Sprintf("memory-%d", i), sh("sleep 1000"))
		pod.Spec.HostNetwork = true
		s := runSandbox(t, e, pod)
		c := start(t, e, s, pod, 0)
		shims, pauses = append(shims, parentOf(t, c.Pid)), append(pauses, s.Pid)
	}
	shim, pause := pssKB(t, shims...), pssKB(t, pauses...)
	t.Logf("shim %d KB and pause %d KB proportional, of %d pods", shim, pause, pods)
	total := (shim + pause) << 10
	if counted {
		kernel := (kernelBytes(own) - before) / pods
		t.Logf("kernel memory for the shim: %d KB", kernel>>10)
		total += kernel
	}
	if total > 3<<19 {
		t.Errorf("a pod costs %d KB beside its own processes", total>>10)
	}
}

// pssKB is the mean proportional memory of processes.
func pssKB(t *testing.T, pids ...int) int {
	t.Helper()
	sum := 0
	for _, pid := range pids {
		_, rest, _ := strings.Cut(read(fmt.Sprintf("/proc/%d/smaps_rollup", pid)), "\nPss:")
		n, err := strconv.Atoi(strings.Fields(rest + " x")[0])
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	return sum / len(pids)
}

func kernelBytes(dir string) int {
	n, _ := strconv.Atoi(strings.TrimSpace(read(filepath.Join(dir, "memory.kmem.usage_in_bytes"))))
	return n
}

// moveHere moves this process into a memory cgroup (version 1) for the test.
func moveHere(t *testing.T, dir string) bool {
	t.Helper()
	self, _ := os.ReadFile("/proc/self/cgroup")
	old := ""
	for line := range strings.Lines(string(self)) {
		if _, path, ok := strings.Cut(strings.TrimSpace(line), ":memory:"); ok {
			old = path
		}
	}
	if old == "" || os.Mkdir(dir, 0o755) != nil {
		return false
	}
	t.Cleanup(func() { // after the engine's teardown would be too late: its processes are in it
		_ = os.WriteFile(filepath.Join("/sys/fs/cgroup/memory", old, "cgroup.procs"), []byte("0"), 0o600)
		for line := range strings.Lines(read(filepath.Join(dir, "cgroup.procs"))) {
			_ = os.WriteFile(filepath.Join("/sys/fs/cgroup/memory", old, "cgroup.procs"), []byte(strings.TrimSpace(line)), 0o600)
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o600) == nil
}

func read(file string) string {
	b, _ := os.ReadFile(file)
	return string(b)
}
