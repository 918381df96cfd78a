package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bramble.dev/runtime/shim"
)

// TerminalSize is a terminal's size in characters.
type TerminalSize struct{ Width, Height uint16 }

// Streams are what a command, or a client that attaches, reads and writes. Any may be nil. Reading from Stdin goes on
// in the background until it ends: the caller closes it when the command is over.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool // then Stderr is not used
	Resize         <-chan TerminalSize
}

// drainTime is how long output is still read when a command has ended, but something that it started holds its output.
const drainTime = 2 * time.Second

// Exec runs a command in a container and returns its exit code. When ctx is done it is killed.
func (e *Engine) Exec(ctx context.Context, id string, cmd []string, s Streams) (int, error) {
	code, err := e.exec(ctx, id, cmd, s)
	if err != nil {
		return code, fmt.Errorf("exec in container %s: %w", id, err)
	}
	return code, nil
}

func (e *Engine) exec(ctx context.Context, id string, cmd []string, s Streams) (int, error) {
	t, err := e.task(id)
	if err != nil {
		return -1, err
	}
	if len(cmd) == 0 {
		return -1, errors.New("no command given")
	}
	e.mu.Lock()
	state := t.state
	e.mu.Unlock()
	if state != Running {
		return -1, fmt.Errorf("the container is not running (%s)", state)
	}
	dir, err := os.MkdirTemp(e.run(t.pod), "x")
	if err != nil {
		return -1, err
	}
	defer os.RemoveAll(dir)
	run := shim.Task{ID: filepath.Base(dir), PidFile: filepath.Join(dir, "pid")}
	log := filepath.Join(dir, "log")
	run.Args = []string{e.cfg.Runc, "--root", e.runcRoot(), "--log", log, "--log-format", "json", "exec", "--detach", "--pid-file", run.PidFile}
	var io execIO = &pipes{}
	if s.TTY {
		console := filepath.Join(dir, "c")
		io = &terminal{path: console}
		run.Args = append(run.Args, "--tty", "--console-socket", console, "--env", "TERM=xterm")
	}
	run.Args = append(append(run.Args, id), cmd...)
	files, err := io.open(s)
	if err != nil {
		return -1, err
	}
	defer io.close()
	process, err := t.pod.client.Exec(ctx, run, files...)
	if err != nil {
		var refused *shim.Error
		if errors.As(err, &refused) && refused.Starter() {
			return -1, &StartError{e.runcSays(log)}
		}
		return -1, err
	}
	if err := io.start(s); err != nil {
		over, cancel := context.WithCancel(ctx)
		cancel() // kills it
		_, _ = process.Wait(over)
		return -1, err
	}
	code, err := process.Wait(ctx)
	io.drain()
	if ctx.Err() != nil {
		return code, context.Cause(ctx)
	}
	return code, err
}

// execIO connects a command with its streams.
type execIO interface {
	open(Streams) ([]*os.File, error) // the command's side
	start(Streams) error              // when it runs
	drain()                           // when it has ended
	close()
}

type pipes struct {
	theirs, ours []*os.File
	copying      sync.WaitGroup
}

func (p *pipes) open(s Streams) ([]*os.File, error) {
	for i, wanted := range []bool{s.Stdin != nil, s.Stdout != nil, s.Stderr != nil} {
		var r, w *os.File
		var err error
		if wanted {
			r, w, err = os.Pipe()
		} else {
			r, err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
			w = r
		}
		if err != nil {
			p.close()
			return nil, err
		}
		switch {
		case !wanted:
			p.theirs, p.ours = append(p.theirs, r), append(p.ours, nil)
		case i == 0:
			p.theirs, p.ours = append(p.theirs, r), append(p.ours, w)
		default:
			p.theirs, p.ours = append(p.theirs, w), append(p.ours, r)
		}
	}
	return p.theirs, nil
}

func (p *pipes) start(s Streams) error {
	closeAll(p.theirs)
	p.theirs = nil
	if w := p.ours[0]; w != nil {
		go func() { // ends when Stdin does, which is the caller's to see to
			_, _ = io.Copy(w, s.Stdin)
			_ = w.Close()
		}()
	}
	for i, to := range []io.Writer{nil, s.Stdout, s.Stderr} {
		if from := p.ours[i]; to != nil && from != nil {
			p.copying.Go(func() { copyAll(to, from) })
		}
	}
	return nil
}

// copyAll copies until the end; a writer that fails stops nobody from writing.
func copyAll(to io.Writer, from *os.File) {
	if _, err := io.Copy(to, from); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		_, _ = io.Copy(io.Discard, from)
	}
}

func (p *pipes) drain() {
	for _, f := range p.ours[1:] {
		if f != nil {
			_ = f.SetReadDeadline(time.Now().Add(drainTime))
		}
	}
	p.copying.Wait()
}

func (p *pipes) close() {
	closeAll(p.theirs)
	for i, f := range p.ours {
		if f != nil && i > 0 {
			_ = f.Close()
		}
	}
	if len(p.ours) > 0 && p.ours[0] != nil {
		_ = p.ours[0].Close()
	}
	p.copying.Wait()
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// terminal receives the command's terminal from runc.
type terminal struct {
	path     string
	listener *net.UnixListener
	master   *os.File
	copying  sync.WaitGroup
	resized  chan struct{}
}

func (t *terminal) open(Streams) ([]*os.File, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: t.path, Net: "unix"})
	t.listener = l
	return nil, err
}

func (t *terminal) start(s Streams) error {
	if err := t.listener.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	conn, err := t.listener.AcceptUnix()
	if err != nil {
		return fmt.Errorf("receive the terminal: %w", err)
	}
	defer conn.Close()
	if t.master, err = receiveFile(conn); err != nil {
		return fmt.Errorf("receive the terminal: %w", err)
	}
	if s.Stdin != nil {
		go func() { _, _ = io.Copy(t.master, s.Stdin) }() // ends when Stdin does
	}
	if s.Stdout != nil {
		t.copying.Go(func() { copyAll(s.Stdout, t.master) })
	}
	t.resized = make(chan struct{})
	if s.Resize != nil {
		t.copying.Go(func() { followSize(t.resized, s.Resize, t.resize) })
	}
	return nil
}

// followSize applies sizes until done is closed or there are no more.
func followSize(done <-chan struct{}, sizes <-chan TerminalSize, apply func(TerminalSize)) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			apply(size)
		case <-done:
			return
		}
	}
}

func (t *terminal) resize(s TerminalSize) {
	raw, err := t.master.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: s.Height, Col: s.Width})
	})
}

func receiveFile(conn *net.UnixConn) (*os.File, error) {
	name, rights := make([]byte, 256), make([]byte, unix.CmsgSpace(4))
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	_, n, _, _, err := conn.ReadMsgUnix(name, rights)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) == 0 {
		return nil, errors.Join(errors.New("no file came"), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(errors.New("no file came"), err)
	}
	unix.CloseOnExec(fds[0])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

func (t *terminal) drain() {
	if t.master != nil {
		_ = t.master.SetReadDeadline(time.Now().Add(drainTime))
		close(t.resized)
		t.resized = nil
	}
	t.copying.Wait()
}

func (t *terminal) close() {
	if t.listener != nil {
		_ = t.listener.Close()
	}
	if t.master != nil {
		_ = t.master.Close()
	}
	if t.resized != nil {
		close(t.resized)
	}
	t.copying.Wait()
}
