package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Client speaks with the shim whose socket is in Dir. Each request has a connection of its own.
type Client struct{ Dir string }

// Task is what a shim is asked to run: a starter (runc) that leaves a process behind and its pid in a file.
type Task struct {
	ID      string
	PidFile string
	Args    []string // the starter's command line

	Log      string // file for the output, in the CRI's format
	LogSize  int64  // at which the file is rotated; 0 is the shim's default of 10 MiB
	LogFiles int    // kept in all; 0 is the shim's default of 5
	ExitFile string // receives the exit code, durably
	OOMFile  string // the cgroup's count of kills for memory
	Console  string // path of the socket on which the starter hands over a terminal; "" is no terminal
	Stdin    bool
	Once     bool // stdin ends with the first client that was attached
}

func (t Task) fields(kind string) fields {
	var f fields
	f.add("id", t.ID)
	f.add("kind", kind)
	f.add("pidfile", t.PidFile)
	for key, v := range map[string]string{"log": t.Log, "exitfile": t.ExitFile, "oomfile": t.OOMFile, "console": t.Console} {
		if v != "" {
			f.add(key, v)
		}
	}
	for key, v := range map[string]bool{"stdin": t.Stdin, "once": t.Once} {
		if v {
			f.addInt(key, 1)
		}
	}
	if t.LogSize > 0 {
		f.addInt("logsize", t.LogSize)
	}
	if t.LogFiles > 0 {
		f.addInt("logfiles", int64(t.LogFiles))
	}
	for _, a := range t.Args {
		f.add("arg", a)
	}
	return f
}

// TaskState is what the shim knows of a task.
type TaskState struct {
	ID       string
	Pid      int
	Started  time.Time
	Starting bool // its starter has not ended yet
	Exited   bool
	Failed   bool // it exited before it began: the starter failed
	Code     int
	OOM      bool
	Finished time.Time
}

func state(f fields) TaskState {
	t := TaskState{Pid: int(f.int("pid")), Started: stamp(f.int("started"))}
	t.ID, _ = f.get("id")
	t.Starting, t.Failed = f.int("starting") != 0, f.int("failed") != 0
	if _, ended := f.get("finished"); ended {
		t.Exited, t.Code, t.OOM, t.Finished = true, int(f.int("code")), f.int("oom") != 0, stamp(f.int("finished"))
	}
	return t
}

func stamp(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

// Error is a shim's refusal. Code is the starter's exit code, when it was the starter that failed.
type Error struct {
	What  string
	Code  int
	Errno syscall.Errno
}

func (e *Error) Error() string {
	switch {
	case e.Errno != 0:
		return fmt.Sprintf("shim: %s: %v", e.What, e.Errno)
	case e.Starter():
		return fmt.Sprintf("shim: the program that starts containers ended with code %d", e.Code)
	}
	return "shim: " + e.What
}

// Starter says that it was the starter that failed: it ran, and left no process behind.
func (e *Error) Starter() bool { return e.What == "starter" }

func failure(f fields) error {
	what, _ := f.get("error")
	return &Error{What: what, Code: int(f.int("code")), Errno: syscall.Errno(f.int("errno"))}
}

// ErrGone means that there is no shim behind the socket any more.
var ErrGone = errors.New("the pod's shim is gone")

func (c Client) dial(ctx context.Context) (*net.UnixConn, error) {
	// A socket's address has room for 107 bytes; through the folder's descriptor any folder will do.
	dir, err := unix.Open(c.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrGone, c.Dir, err)
	}
	defer unix.Close(dir)
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/s", dir))
	for wait := time.Millisecond; errors.Is(err, unix.EAGAIN); wait = min(2*wait, 100*time.Millisecond) { // it is being asked by many
		select {
		case <-time.After(wait):
			conn, err = d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/s", dir))
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if err != nil {
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
			err = fmt.Errorf("%w: %s: %w", ErrGone, filepath.Join(c.Dir, "s"), err)
		}
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// watchContext ends reads and writes of conn when ctx is done; stop it with the function that it returns.
func watchContext(ctx context.Context, conn net.Conn) func() bool {
	return context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
}

func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: %w", ErrGone, err)
}

// call sends one request and returns the first answer; the connection is the caller's.
func (c Client) call(ctx context.Context, k kind, f fields, files ...*os.File) (*net.UnixConn, fields, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer watchContext(ctx, conn)()
	answer, err := ask(conn, k, f, files)
	if err != nil {
		conn.Close()
		var refused *Error
		if !errors.As(err, &refused) {
			err = lost(ctx, err)
		}
		return nil, nil, err
	}
	return conn, answer, nil
}

func ask(conn *net.UnixConn, k kind, f fields, files []*os.File) (fields, error) {
	b := frame(k, f)
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, file := range files {
			fds[i] = int(file.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	n, _, err := conn.WriteMsgUnix(b, rights, nil)
	if err == nil && n < len(b) {
		_, err = conn.Write(b[n:])
	}
	if err != nil {
		return nil, err
	}
	got, answer, err := readFrame(conn)
	if err != nil {
		return nil, err
	}
	if got == msgFailed {
		return nil, failure(answer)
	}
	return answer, nil
}

func (c Client) simple(ctx context.Context, k kind, f fields) error {
	conn, _, err := c.call(ctx, k, f)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Run starts a container: its output goes to the log, its exit code to the exit file and to those who watch.
func (c Client) Run(ctx context.Context, t Task) (TaskState, error) {
	conn, answer, err := c.call(ctx, msgRun, t.fields("container"))
	if err != nil {
		return TaskState{}, err
	}
	return state(answer), conn.Close()
}

// Signal sends a signal to a task's first process.
func (c Client) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	var f fields
	f.add("id", id)
	f.addInt("signal", int64(sig))
	return c.simple(ctx, msgSignal, f)
}

// Forget drops what the shim keeps of a task that has ended.
func (c Client) Forget(ctx context.Context, id string) error {
	var f fields
	f.add("id", id)
	return c.simple(ctx, msgForget, f)
}

// Fence has the shim kill everything of the pod at a moment of the clock CLOCK_BOOTTIME, unless it is told another before;
// 0 is never. It does so whoever else is dead by then.
func (c Client) Fence(ctx context.Context, at time.Duration) error {
	var f fields
	f.addInt("at", int64(at))
	return c.simple(ctx, msgFence, f)
}

// Shutdown kills the pod's processes and ends the shim. It returns when the shim is gone.
func (c Client) Shutdown(ctx context.Context) error {
	conn, err := c.dial(ctx)
	if errors.Is(err, ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	defer watchContext(ctx, conn)()
	if _, err := conn.Write(frame(msgShutdown, nil)); err == nil {
		_, _, _ = readFrame(conn) // the end of the connection is the answer
	}
	return ctx.Err()
}
