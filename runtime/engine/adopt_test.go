package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"bramble.dev/runtime/sandbox"
	"bramble.dev/runtime/testimage"
)

// TestAgentKilled starts a pod in another process and kills that with SIGKILL; a container then ends with code 37. The
// next engine learns that once, with the time at which it happened and every line of the log.
func TestAgentKilled(t *testing.T) {
	if cfg := os.Getenv("BRAMBLE_TEST_AGENT"); cfg != "" {
		agentProcess(t, cfg)
		return
	}
	c := config(t)
	first := openEngine(t, c)
	importImage(t, first, testImage, testimage.Options{})
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	c.Logger = nil
	cfg, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	agent := exec.Command(os.Args[0], "-test.run", "^TestAgentKilled$", "-test.v")
	agent.Env = append(os.Environ(), "BRAMBLE_TEST_AGENT="+string(cfg))
	var out bytes.Buffer
	ready := filepath.Join(c.Dir, "ready")
	agent.Stdout, agent.Stderr = &out, &out
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(ready); err == nil {
			break
		}
		if time.Now().After(deadline) {
			_ = agent.Process.Kill()
			t.Fatalf("the other process does not get ready:\n%s", out.String())
		}
	}
	if err := agent.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = agent.Wait()
	killed := time.Now()
	ids := readLines(t, ready)
	exit := filepath.Join(c.Dir, "pods", ids[0], ids[1], "exit")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(exit); err == nil || time.Now().After(deadline) {
			break
		}
	}
	ended := time.Now()
	time.Sleep(300 * time.Millisecond) // the end must be dated when it was, not when it is found

	e, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	got := waitExit(t, e, ids[1])
	if got.ExitCode != 37 || got.FinishedAt.Before(killed) || got.FinishedAt.After(ended) || got.StartedAt.IsZero() {
		t.Errorf("ended as %+v; the agent was killed at %v, the exit was seen at %v", got, killed, ended)
	}
	stdout, _ := readLog(t, got.LogPath)
	lines := strings.Fields(stdout)
	for i, l := range lines {
		if l != strconv.Itoa(i+1) {
			t.Fatalf("line %d of the log is %q", i+1, l)
		}
	}
	if len(lines) != 5000 {
		t.Errorf("the log has %d lines", len(lines))
	}
	other := find(t, e, ids[2])
	if other.State != Running || other.Pid == 0 {
		t.Errorf("the container beside it is %+v", other)
	}
	if code, err := e.Exec(t.Context(), ids[2], []string{"true"}, Streams{}); err != nil || code != 0 {
		t.Errorf("exec after adoption: %d, %v", code, err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if same := find(t, again, ids[1]); !same.FinishedAt.Equal(got.FinishedAt) || same.ExitCode != 37 {
		t.Errorf("the next engine says %+v", same)
	}
}

func readLines(t *testing.T, file string) []string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(b))
}

// agentProcess is the one that is killed.
func agentProcess(t *testing.T, cfg string) {
	var c Config
	if err := json.Unmarshal([]byte(cfg), &c); err != nil {
		t.Fatal(err)
	}
	e, err := Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	pod := testPod("killed", sh("sleep 3; i=0; while [ $i -lt 5000 ]; do i=$((i+1)); echo $i; done; exit 37"), sh("sleep 1000"))
	pod.Spec.HostNetwork = true
	s := runSandbox(t, e, pod)
	a, b := start(t, e, s, pod, 0), start(t, e, s, pod, 1)
	ready := filepath.Join(c.Dir, "ready")
	if err := os.WriteFile(ready+".tmp", []byte(fmt.Sprintln(s.ID, a.ID, b.ID)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(ready+".tmp", ready); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Minute)
}

// TestReboot opens the engine as after a reboot: nothing runs, and what ran is reported as ended.
func TestReboot(t *testing.T) {
	c := config(t)
	e := openEngine(t, c)
	importImage(t, e, testImage, testimage.Options{})
	pod := testPod("reboot", sh("sleep 1000"), sh("exit 7"))
	s := runSandbox(t, e, pod)
	running, ended := start(t, e, s, pod, 0), start(t, e, s, pod, 1)
	waitExit(t, e, ended.ID)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(parentOf(t, running.Pid), syscall.SIGKILL); err != nil { // a reboot leaves no shim to write anything
		t.Fatal(err)
	}
	dir, err := sandbox.Open(filepath.Join(c.Dir, "pods"))
	if err != nil {
		t.Fatal(err)
	}
	records, err := dir.Load()
	if err != nil || len(records) != 1 {
		t.Fatalf("%v, %d records", err, len(records))
	}
	records[0].BootID = "another"
	if err := dir.Save(records[0]); err != nil {
		t.Fatal(err)
	}
	after, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	list, _ := after.List(t.Context())
	if len(list) != 1 || list[0].Ready {
		t.Fatalf("after the reboot: %+v", list)
	}
	if got := find(t, after, running.ID); got.State != Exited || got.ExitCode != 255 || got.Reason != "Unknown" {
		t.Errorf("what ran is %+v", got)
	}
	if got := find(t, after, ended.ID); got.State != Exited || got.ExitCode != 7 {
		t.Errorf("what had ended is %+v", got)
	}
	if _, err := after.StartContainer(t.Context(), s.ID, containerSpec(after, pod, 0)); err == nil {
		t.Error("a container was started in a sandbox of before the reboot")
	}
	if err := after.RemoveSandbox(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
}

// TestShimKilled kills a shim: its pod is over, and can be removed and run again.
func TestShimKilled(t *testing.T) {
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	pod := testPod("shimless", sh("sleep 1000"))
	s := runSandbox(t, e, pod)
	c := start(t, e, s, pod, 0)
	shim := parentOf(t, c.Pid)
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := waitExit(t, e, c.ID); got.ExitCode != 255 || got.Reason != "Unknown" || !strings.Contains(got.Message, "bramble-shim") {
		t.Errorf("ended as %+v", got)
	}
	for deadline := time.Now().Add(5 * time.Second); syscall.Kill(c.Pid, 0) == nil && !zombie(c.Pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the container still runs")
		}
	}
	if list, _ := e.List(t.Context()); list[0].Ready {
		t.Error("the sandbox is ready")
	}
	if err := e.RemoveSandbox(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if left := mounted(t, e.cfg.Dir, e.cfg.RunDir); len(left) > 0 {
		t.Errorf("still mounted: %v", left)
	}
	s = runSandbox(t, e, pod)
	start(t, e, s, pod, 0)
}

// mounted lists what is mounted below folders.
func mounted(t *testing.T, folders ...string) (found []string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		for _, f := range folders {
			if fields := strings.Fields(line); strings.HasPrefix(fields[1], f+"/") {
				found = append(found, fields[1])
			}
		}
	}
	return found
}

func parentOf(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	n, _ := strconv.Atoi(fields[1])
	return n
}

func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

// TestPauseKilled kills the pause process: the sandbox is no longer ready.
func TestPauseKilled(t *testing.T) {
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	pod := testPod("pauseless", sh("sleep 1000"))
	s := runSandbox(t, e, pod)
	start(t, e, s, pod, 0)
	if err := syscall.Kill(s.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if list, _ := e.List(t.Context()); !list[0].Ready {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the sandbox is still ready")
		}
	}
}

// TestSweep opens an engine on folders in which another was killed between two steps.
func TestSweep(t *testing.T) {
	c := config(t)
	e := openEngine(t, c)
	importImage(t, e, testImage, testimage.Options{})
	pod := testPod("forgotten", sh("sleep 1000"))
	s := runSandbox(t, e, pod)
	ct := start(t, e, s, pod, 0)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(c.Dir, "pods", s.ID, "sandbox.json")); err != nil {
		t.Fatal(err)
	}
	after, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	if list, _ := after.List(t.Context()); len(list) != 0 {
		t.Errorf("found %+v", list)
	}
	if !zombie(ct.Pid) {
		t.Error("the container still runs")
	}
	if entries, _ := os.ReadDir(c.RunDir); len(entries) > 1 {
		t.Errorf("left in %s: %v", c.RunDir, entries)
	}
}

// TestChanges hears of a container's end.
func TestChanges(t *testing.T) {
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	pod := testPod("changes", sh("exit 0"))
	s := runSandbox(t, e, pod)
	c := start(t, e, s, pod, 0)
	for deadline := time.After(10 * time.Second); find(t, e, c.ID).State != Exited; {
		select {
		case uid := <-e.Changes():
			if uid != string(pod.UID) {
				t.Errorf("heard of %q", uid)
			}
		case <-deadline:
			t.Fatal("nothing is heard of the end")
		}
	}
}
