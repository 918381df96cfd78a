package shim

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bramble.dev/runtime/testimage"
)

func startShim(t *testing.T) (Client, string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("namespaces need root")
	}
	_, program, pause, err := testimage.Programs()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o555); err != nil {
		t.Fatal(err)
	}
	if err := Start(t.Context(), Config{Program: program, Pause: pause, Dir: dir, Empty: empty, IPC: true, UTS: true, Hostname: "x"}); err != nil {
		t.Fatal(err)
	}
	c := Client{Dir: dir}
	t.Cleanup(func() {
		if err := c.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c, dir
}

// starter is a stand-in for runc: it leaves a shell with a script behind.
func starter(dir, script string) []string {
	return []string{"/bin/sh", "-c", `sh -c "$1" & echo -n $! > "$2"`, "starter", script, filepath.Join(dir, "pid")}
}

func run(t *testing.T, c Client, dir, id, script string) TaskState {
	t.Helper()
	s, err := c.Run(t.Context(), Task{ID: id, PidFile: filepath.Join(dir, "pid"), Log: filepath.Join(dir, id+".log"), ExitFile: filepath.Join(dir, id+".exit"), Args: starter(dir, script)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestDialect speaks as newer and older agents might.
func TestDialect(t *testing.T) {
	c, dir := startShim(t)
	conn, err := c.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := func(version byte, k kind, payload []byte) (kind, fields) {
		t.Helper()
		b := frame(k, payload)
		b[0] = version
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		got, f, err := readFrame(conn)
		if err != nil {
			t.Fatal(err)
		}
		return got, f
	}
	if k, f := ask(9, 60, []byte("future=1\x00")); k != msgFailed || !strings.Contains(string(f), "unknown request") {
		t.Errorf("a request of the future: %d %q", k, f)
	}
	var f fields
	f.add("id", "t")
	f.add("a field of the future", "x")
	f.add("kind", "container")
	f.add("pidfile", filepath.Join(dir, "pid"))
	for _, a := range starter(dir, "exit 3") {
		f.add("arg", a)
	}
	if k, f := ask(2, msgRun, f); k != msgStarted || f.int("pid") == 0 {
		t.Errorf("a field of the future: %d %q", k, f)
	}
	if k, _ := ask(1, msgSignal, []byte("no fields at all")); k != msgFailed {
		t.Errorf("a request without fields: %d", k)
	}
	if k, _ := ask(1, msgRun, nil); k != msgFailed {
		t.Errorf("a RUN of nothing: %d", k)
	}
}

// TestRubbish sends rubbish: the shim cuts the client off and goes on.
func TestRubbish(t *testing.T) {
	c, dir := startShim(t)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 300 {
		conn, err := c.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 8+random.IntN(300))
		for j := range b {
			b[j] = byte(random.Uint32())
		}
		if i%2 == 0 { // a well-formed head, but not of SHUTDOWN, which would be obeyed
			b[0], b[1] = 1, byte(1+random.IntN(10))
			if b[1] == byte(msgShutdown) {
				b[1] = byte(msgStdin)
			}
			binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-8))
		} else if b[1] == byte(msgShutdown) {
			b[1]++
		}
		_, _ = conn.Write(b)
		conn.Close()
	}
	huge, err := c.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer huge.Close()
	_, _ = huge.Write([]byte{1, 1, 0, 0, 0xff, 0xff, 0xff, 0x7f})
	_ = huge.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := huge.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a message of 2 GiB is waited for: %v", err)
	}
	if s := run(t, c, dir, "after", "sleep 100"); s.Pid == 0 {
		t.Error("it does not work any more")
	}
}

// TestWatch hears of starts and ends, also of those before it.
func TestWatch(t *testing.T) {
	c, dir := startShim(t)
	run(t, c, dir, "early", "exit 5")
	run(t, c, dir, "runs", "sleep 100")
	var w *Watch
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var err error
		if w, err = c.Watch(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if len(w.Tasks) == 2 && (w.Tasks[0].Exited || w.Tasks[1].Exited) || time.Now().After(deadline) {
			break
		}
	}
	for _, task := range w.Tasks {
		if task.ID == "early" && (!task.Exited || task.Code != 5) || task.ID == "runs" && (task.Exited || task.Pid == 0) {
			t.Errorf("%+v", task)
		}
	}
	if err := c.Signal(t.Context(), "runs", syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	got, err := w.Next()
	if err != nil || got == nil || got.ID != "runs" || got.Code != 143 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := c.Signal(t.Context(), "runs", syscall.SIGTERM); err == nil {
		t.Error("a signal to what has ended")
	}
	if err := c.Forget(t.Context(), "runs"); err != nil {
		t.Error(err)
	}
	if err := c.Forget(t.Context(), "none"); err == nil {
		t.Error("forgot what was not there")
	}
	if err := syscall.Kill(w.Pause, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got, err := w.Next(); err != nil || got != nil {
		t.Errorf("the pause process' end: %+v, %v", got, err)
	}
}

// TestEndsAlone: without a pod, without clients, there is nothing to wait for.
func TestEndsAlone(t *testing.T) {
	c, _ := startShim(t)
	w, err := c.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(w.Pause, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Next(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		conn, err := c.dial(t.Context())
		if errors.Is(err, ErrGone) {
			return
		}
		if err == nil {
			conn.Close()
		}
		if time.Now().After(deadline) {
			t.Fatal("it still runs")
		}
	}
}

// TestFence: the pod ends at the time that was told last, with nobody left who asks for it.
func TestFence(t *testing.T) {
	c, dir := startShim(t)
	run(t, c, dir, "c", "sleep 600")
	now := func() time.Duration {
		var at unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &at); err != nil {
			t.Fatal(err)
		}
		return time.Duration(at.Nano())
	}
	for _, at := range []time.Duration{now() + 300*time.Millisecond, 0, now() + time.Hour} { // the newest counts
		if err := c.Fence(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(500 * time.Millisecond)
	w, err := c.Watch(t.Context())
	if err != nil || w.Pause == 0 || w.Tasks[0].Exited {
		t.Fatalf("it did not wait: %+v, %v", w, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Fence(t.Context(), 1); err != nil { // a nanosecond after the machine's start: has passed
		t.Fatal(err)
	}
	for range 100 {
		if _, err := c.Watch(t.Context()); errors.Is(err, ErrGone) {
			if b, err := os.ReadFile(filepath.Join(dir, "c.exit")); err != nil || !strings.Contains(string(b), "code=137") {
				t.Errorf("the exit file says %q, %v", b, err)
			}
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("the pod outlived its fence")
}

// TestDeserted closes the connection of whoever asked for a command: the command is killed.
func TestDeserted(t *testing.T) {
	c, dir := startShim(t)
	p, err := c.Exec(t.Context(), Task{ID: "x", PidFile: filepath.Join(dir, "pid"), Args: starter(dir, "echo $$ > "+dir+"/self; exec sleep 1000")})
	if err != nil {
		t.Fatal(err)
	}
	p.conn.Close()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := c.Signal(t.Context(), "x", 0)
		var gone *Error
		if errors.As(err, &gone) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it still runs: %v", err)
		}
	}
}

// TestManyClients connects more clients than it takes at a time.
func TestManyClients(t *testing.T) {
	c, dir := startShim(t)
	var conns []net.Conn
	for range 200 {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		conn, err := c.dial(ctx)
		cancel()
		if err != nil {
			break
		}
		conns = append(conns, conn)
	}
	for _, conn := range conns {
		conn.Close()
	}
	if s := run(t, c, dir, "after", "sleep 100"); s.Pid == 0 {
		t.Error("it does not work any more")
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(frame(msgExited, []byte("id=x\x00code=3\x00finished=5\x00")))
	f.Add([]byte{1, 2, 0, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, payload, err := readFrame(bytes.NewReader(b))
		if err != nil {
			return
		}
		state(payload)
		_ = failure(payload).Error()
	})
}

func TestFields(t *testing.T) {
	var f fields
	f.add("a", "x=y")
	f.add("b", "")
	f.addInt("n", -5)
	if v, ok := f.get("a"); !ok || v != "x=y" {
		t.Errorf("a: %q", v)
	}
	if v, ok := f.get("b"); !ok || v != "" {
		t.Errorf("b: %q, %v", v, ok)
	}
	if _, ok := f.get("c"); ok || f.int("n") != -5 {
		t.Error("c, n")
	}
}
