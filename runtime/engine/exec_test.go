package engine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"bramble.dev/runtime/testimage"
)

// lockedBuffer can be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lockedBuffer) waitFor(t *testing.T, s string) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !strings.Contains(l.String(), s); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q in %q", s, l.String())
		}
	}
}

func sleeper(t *testing.T) (*Engine, Container) {
	t.Helper()
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	pod := testPod("sleeper", sh("sleep 1000"))
	return e, start(t, e, runSandbox(t, e, pod), pod, 0)
}

func TestExec(t *testing.T) {
	e, c := sleeper(t)
	for _, tt := range []struct {
		name, stdin, script, stdout, stderr string
		code                                int
	}{
		{"nothing", "", "true", "", "", 0},
		{"code", "", "exit 42", "", "", 42},
		{"signal", "", "kill -9 $$", "", "", 137},
		{"streams", "in", "cat; echo e >&2", "in", "e\n", 0},
		{"large", strings.Repeat("x", 1<<20), "wc -c", "1048576\n", "", 0},
		{"left behind", "", "sleep 100 & echo done", "done\n", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			s := Streams{Stdout: &out, Stderr: &errs}
			if tt.stdin != "" {
				s.Stdin = strings.NewReader(tt.stdin)
			}
			code, err := e.Exec(t.Context(), c.ID, []string{"sh", "-c", tt.script}, s)
			if err != nil || code != tt.code || out.String() != tt.stdout || errs.String() != tt.stderr {
				t.Errorf("%d, %v, %q, %q", code, err, out.String(), errs.String())
			}
		})
	}
}

func TestExecTimeout(t *testing.T) {
	e, c := sleeper(t)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := e.Exec(ctx, c.ID, []string{"sleep", "1000"}, Streams{})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	var out bytes.Buffer
	for deadline := time.Now().Add(5 * time.Second); ; {
		out.Reset()
		if _, err := e.Exec(t.Context(), c.ID, []string{"sh", "-c", "ps | grep -c 'sleep 100[0]'"}, Streams{Stdout: &out}); err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(out.String()) == "1" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the command still runs: %s", out.String())
		}
	}
}

func TestExecTerminal(t *testing.T) {
	e, c := sleeper(t)
	in, type_ := io.Pipe()
	var out lockedBuffer
	sizes := make(chan TerminalSize)
	done := make(chan int)
	go func() {
		code, err := e.Exec(t.Context(), c.ID, []string{"sh"}, Streams{Stdin: in, Stdout: &out, TTY: true, Resize: sizes})
		if err != nil {
			t.Error(err)
		}
		_ = in.Close()
		done <- code
	}()
	sizes <- TerminalSize{Width: 132, Height: 43}
	_, _ = io.WriteString(type_, "stty size; tty; echo term=$TERM\n")
	out.waitFor(t, "43 132")
	out.waitFor(t, "/dev/pts/")
	out.waitFor(t, "term=xterm")
	_, _ = io.WriteString(type_, "exit 6\n")
	if code := <-done; code != 6 {
		t.Errorf("code %d", code)
	}
}

func TestAttach(t *testing.T) {
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	c := sh("while read l; do echo got $l; echo also $l >&2; done; echo eof; exit 4")
	c.Stdin, c.StdinOnce = true, true
	pod := testPod("attach", c)
	ct := start(t, e, runSandbox(t, e, pod), pod, 0)
	in, say := io.Pipe()
	var out, errs lockedBuffer
	done := make(chan error)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	go func() { done <- e.Attach(ctx, ct.ID, Streams{Stdin: in, Stdout: &out, Stderr: &errs}) }()
	_, _ = io.WriteString(say, "one\n")
	out.waitFor(t, "got one")
	errs.waitFor(t, "also one")
	leave() // and stdin ends with this client, because the pod says stdinOnce
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	_ = say.Close()
	if got := waitExit(t, e, ct.ID); got.ExitCode != 4 {
		t.Errorf("ended as %+v", got)
	}
	if stdout, _ := readLog(t, ct.LogPath); stdout != "got one\neof\n" {
		t.Errorf("log %q", stdout)
	}
	if err := e.Attach(t.Context(), ct.ID, Streams{}); err == nil || !strings.Contains(err.Error(), "not running") {
		t.Errorf("attached to what has ended: %v", err)
	}
}

// Without stdinOnce a container's stdin outlives its clients: each leaves when its own ends, after all of it was taken.
func TestAttachOneAfterAnother(t *testing.T) {
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	c := sh("sleep 1; while read l; do echo ${#l} bytes; done; echo eof")
	c.Stdin = true
	pod := testPod("attachagain", c)
	ct := start(t, e, runSandbox(t, e, pod), pod, 0)
	for _, said := range []string{strings.Repeat("x", 300_000), "two"} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		if err := e.Attach(ctx, ct.ID, Streams{Stdin: strings.NewReader(said + "\n"), Stdout: io.Discard}); err != nil {
			t.Errorf("attached with %d bytes: %v", len(said), err)
		}
		cancel()
	}
	for range 200 {
		if stdout, _ := readLog(t, ct.LogPath); strings.Contains(stdout, "3 bytes") {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if stdout, _ := readLog(t, ct.LogPath); stdout != "300000 bytes\n3 bytes\n" {
		t.Errorf("log %q", stdout)
	}
}

func TestAttachTerminal(t *testing.T) {
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	c := sh("sh")
	c.Stdin, c.TTY = true, true
	pod := testPod("attachtty", c)
	ct := start(t, e, runSandbox(t, e, pod), pod, 0)
	in, say := io.Pipe()
	var out lockedBuffer
	sizes := make(chan TerminalSize, 1)
	sizes <- TerminalSize{Width: 99, Height: 33}
	done := make(chan error)
	go func() { done <- e.Attach(t.Context(), ct.ID, Streams{Stdin: in, Stdout: &out, Resize: sizes}) }()
	for range 100 { // the size may come after the first prompt
		_, _ = io.WriteString(say, "stty size\n")
		if strings.Contains(out.String(), "33 99") {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	out.waitFor(t, "33 99")
	_, _ = io.WriteString(say, "exit 8\n")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := waitExit(t, e, ct.ID); got.ExitCode != 8 {
		t.Errorf("ended as %+v", got)
	}
	if stdout, _ := readLog(t, ct.LogPath); !strings.Contains(stdout, "33 99") {
		t.Errorf("log %q", stdout)
	}
}

// TestSlowClient attaches a client that reads nothing: the container goes on after the shim has cut it off, and its
// log is whole.
func TestSlowClient(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the shim's patience")
	}
	e := openEngine(t, config(t))
	importImage(t, e, testImage, testimage.Options{})
	pod := testPod("slow", sh("sleep 1; seq 1 200000; exit 0"))
	ct := start(t, e, runSandbox(t, e, pod), pod, 0)
	blocked := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- e.Attach(t.Context(), ct.ID, Streams{Stdout: writerFunc(func(p []byte) (int, error) { <-blocked; return len(p), nil })})
	}()
	if got := waitExit(t, e, ct.ID); got.ExitCode != 0 {
		t.Errorf("ended as %+v", got)
	}
	close(blocked)
	<-done
	if stdout, _ := readLog(t, ct.LogPath); !strings.HasSuffix(stdout, "\n200000\n") || strings.Count(stdout, "\n") != 200000 {
		t.Errorf("log has %d lines", strings.Count(stdout, "\n"))
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
