package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/runtime/logs"
	"bramble.dev/runtime/testimage"
)

const testImage = "example.com/busybox:1"

// config is that of an engine in folders of its own; what it leaves on the machine is removed when the test ends.
func config(t testing.TB) Config {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("containers need root")
	}
	runc, shim, pause, err := testimage.Programs()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	sum := sha256.Sum256([]byte(dir))
	id := hex.EncodeToString(sum[:])[:6]
	c := Config{Dir: filepath.Join(dir, "runtime"), RunDir: "/run/bt-" + id, Runc: runc, Shim: shim, Pause: pause, CgroupParent: "/bt-" + id}
	if testing.Verbose() {
		c.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return c
}

func openEngine(t testing.TB, c Config) *Engine {
	t.Helper()
	e, err := Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_ = e.Close() // a test may have opened another on the same folders
		last, err := Open(ctx, c)
		if err != nil {
			t.Errorf("open for teardown: %v", err)
			return
		}
		if err := last.Teardown(ctx); err != nil {
			t.Errorf("teardown: %v", err)
		}
		leftovers(t, c)
	})
	return e
}

// leftovers fails the test if the engine has left anything on the machine.
func leftovers(t testing.TB, c Config) {
	t.Helper()
	if _, err := os.Stat(c.RunDir); err == nil {
		t.Errorf("%s is left", c.RunDir)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, c.Dir) || strings.Contains(line, c.RunDir) {
			t.Errorf("a mount is left: %s", line)
		}
	}
	for _, g := range []string{"", "memory", "cpu", "pids", "devices", "freezer", "systemd", "unified", "blkio", "cpuset", "cpuacct"} {
		if _, err := os.Stat(filepath.Join("/sys/fs/cgroup", g, c.CgroupParent)); err == nil {
			t.Errorf("a cgroup is left: %s", filepath.Join(g, c.CgroupParent))
		}
	}
}

func importImage(t testing.TB, e *Engine, ref string, o testimage.Options) {
	t.Helper()
	img, err := testimage.Busybox(o)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := testimage.WriteDocker(file, ref, img); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := e.Images().Import(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

// netns makes a network namespace and returns its path.
func netns(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is in the namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return path
}

func testPod(name string, containers ...corev1.Container) *corev1.Pod {
	for i := range containers {
		if containers[i].Image == "" {
			containers[i].Image = testImage
		}
		if containers[i].Name == "" {
			containers[i].Name = fmt.Sprintf("c%d", i)
		}
		if containers[i].TerminationMessagePath == "" {
			containers[i].TerminationMessagePath = "/dev/termination-log"
		}
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)}, Spec: corev1.PodSpec{Containers: containers}}
}

func sh(script string) corev1.Container {
	return corev1.Container{Command: []string{"sh", "-c", script}}
}

func runSandbox(t testing.TB, e *Engine, pod *corev1.Pod) Sandbox {
	t.Helper()
	s := SandboxSpec{Pod: pod, Hostname: pod.Name, LogDir: filepath.Join(e.cfg.Dir, "logs", pod.Name)}
	if !pod.Spec.HostNetwork {
		s.NetNS = netns(t)
	}
	sandbox, err := e.RunSandbox(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	return sandbox
}

func containerSpec(e *Engine, pod *corev1.Pod, i int) ContainerSpec {
	c := &pod.Spec.Containers[i]
	return ContainerSpec{Pod: pod, Container: c, Command: c.Command, Args: c.Args, LogPath: filepath.Join(e.cfg.Dir, "logs", pod.Name, c.Name, "0.log")}
}

func start(t testing.TB, e *Engine, sandbox Sandbox, pod *corev1.Pod, i int) Container {
	t.Helper()
	c, err := e.StartContainer(context.Background(), sandbox.ID, containerSpec(e, pod, i))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func waitExit(t testing.TB, e *Engine, id string) Container {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := e.Wait(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func readLog(t testing.TB, path string) (stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	if e := logs.Read(context.Background(), path, logs.Options{}, &out, &err); e != nil {
		t.Fatal(e)
	}
	return out.String(), err.String()
}

func find(t testing.TB, e *Engine, id string) Container {
	t.Helper()
	list, err := e.List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		for _, c := range s.Containers {
			if c.ID == id {
				return c
			}
		}
	}
	t.Fatalf("container %s is not listed", id)
	return Container{}
}

func TestLifecycle(t *testing.T) {
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	pod := testPod("life", sh("echo out; echo err >&2; hostname; echo bye > /dev/termination-log; exit 3"), sh("trap 'exit 5' TERM; while :; do sleep 0.05; done"))
	s := runSandbox(t, e, pod)
	if !s.Ready || s.Pid == 0 {
		t.Fatalf("sandbox is not ready: %+v", s)
	}
	c := start(t, e, s, pod, 0)
	got := waitExit(t, e, c.ID)
	if got.ExitCode != 3 || got.Message != "bye\n" || got.Reason != "Error" || got.State != Exited {
		t.Errorf("ended as %+v", got)
	}
	if out, errs := readLog(t, c.LogPath); out != "out\nlife\n" || errs != "err\n" {
		t.Errorf("log: %q, %q", out, errs)
	}
	d := start(t, e, s, pod, 1)
	if got := find(t, e, d.ID); got.State != Running || got.Pid == 0 {
		t.Errorf("running as %+v", got)
	}
	if err := e.RemoveImage(t.Context(), testImage); err == nil || !strings.Contains(err.Error(), "/life runs it") {
		t.Errorf("removing an image that runs: %v", err)
	}
	var out bytes.Buffer
	code, err := e.Exec(t.Context(), d.ID, []string{"sh", "-c", "cat; exit 9"}, Streams{Stdin: strings.NewReader("hello"), Stdout: &out})
	if err != nil || code != 9 || out.String() != "hello" {
		t.Errorf("exec: %d, %v, %q", code, err, out.String())
	}
	if _, err := e.Exec(t.Context(), d.ID, []string{"nonesuch"}, Streams{}); err == nil || !strings.Contains(err.Error(), "nonesuch") {
		t.Errorf("exec of what is not there: %v", err)
	}
	if err := e.StopContainer(t.Context(), d.ID, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if got := find(t, e, d.ID); got.ExitCode != 5 {
		t.Errorf("stopped as %+v", got)
	}
	if err := e.RemoveContainer(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	if err := e.RemoveSandbox(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if list, _ := e.List(t.Context()); len(list) != 0 {
		t.Errorf("left: %+v", list)
	}
	if err := e.RemoveImage(t.Context(), testImage); err != nil {
		t.Errorf("removing an image that nothing runs: %v", err)
	}
}
