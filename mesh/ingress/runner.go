package ingress

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patience is how long the process has for an answer.
const patience = 10 * time.Second

// nobody is whom the process runs as.
const nobody = 65534

// Options are fixed for a Runner's life.
type Options struct {
	Dir         string // for the socket; only root may enter it
	HTTP, HTTPS int    // the ports; 0: none
	Executable  string // which is the process with the argument Command; "": this one
	Logger      *slog.Logger
	// Lost is called when the process has ended by itself: a Set starts it again.
	Lost func()
}

// Taken is a port of the node that somebody else has.
type Taken struct {
	Port int
	Err  error
	Left bool // to who has a better right to it: it may be free, and is not ours
}

// Runner is the agent's hold of the process.
type Runner struct {
	Options

	mu    sync.Mutex
	conn  *net.UnixConn
	said  chan report // what the process answers; closed when it has ended
	told  []byte      // the last table
	ports []int       // on which the process listens
	taken []Taken
	known bool // what a former agent left has been looked for
}

// Open makes a Runner; it does nothing before Set.
func Open(o Options) *Runner {
	if o.Executable == "" {
		o.Executable = "/proc/self/exe"
	}
	return &Runner{Options: o}
}

func (r *Runner) socket() string { return filepath.Join(r.Dir, "ingress.sock") }

// Set makes the process serve what the configuration says; without Ingresses there is none. except are ports that somebody else
// has a better right to.
func (r *Runner) Set(ctx context.Context, c Config, except map[int]string) ([]Problem, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(c.Ingresses) == 0 || r.HTTP == 0 && r.HTTPS == 0 {
		return nil, r.end()
	}
	if r.conn == nil {
		r.adopt()
	}
	wanted := []int{r.HTTP, r.HTTPS}
	for i, port := range wanted {
		if _, ok := except[port]; ok {
			wanted[i] = 0
		}
	}
	if r.conn != nil && !r.suits(wanted) {
		if err := r.end(); err != nil {
			return nil, err
		}
	}
	if r.conn == nil {
		if err := r.start(wanted); err != nil {
			return nil, err
		}
	}
	r.taken = r.lacking(wanted, except)
	table, problems := Compile(c, r.ports[1])
	text, err := json.Marshal(order{Table: &table})
	if err != nil || bytes.Equal(text, r.told) {
		return problems, err
	}
	if _, err := r.tell(text); err != nil {
		r.lose()
		return problems, fmt.Errorf("tell the ingress process what to serve: %w", err)
	}
	r.told = text
	return problems, ctx.Err()
}

// lacking are the ports that Ingresses want and do not have: those that could not be had of the wanted ones, and those that were
// left to others.
func (r *Runner) lacking(wanted []int, except map[int]string) (out []Taken) {
	for _, t := range r.taken {
		if slices.Contains(wanted, t.Port) {
			out = append(out, t)
		}
	}
	for _, port := range []int{r.HTTP, r.HTTPS} {
		if who, ok := except[port]; ok && port != 0 {
			out = append(out, Taken{Port: port, Err: errors.New(who), Left: true})
		}
	}
	return out
}

// suits says whether the process has the ports that it should; those that could not be had are tried again by Retry.
func (r *Runner) suits(wanted []int) bool {
	for i, port := range wanted {
		if r.ports[i] == port {
			continue
		}
		failed := false
		for _, t := range r.taken {
			failed = failed || t.Port == port && port != 0 && !t.Left // what was left to others is had when they are gone
		}
		if !failed || r.ports[i] != 0 {
			return false
		}
	}
	return true
}

// Taken are the ports that somebody else has.
func (r *Runner) Taken() []Taken {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Taken(nil), r.taken...)
}

// Retry says whether a port that could not be had is free now. It is no longer counted as taken, so the next Set takes it.
func (r *Runner) Retry() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil {
		return false
	}
	before := len(r.taken)
	r.taken = slices.DeleteFunc(r.taken, func(t Taken) bool {
		if t.Left {
			return false
		}
		l, err := net.Listen("tcp", ":"+strconv.Itoa(t.Port))
		if err == nil {
			l.Close()
		}
		return err == nil
	})
	return len(r.taken) < before
}

// adopt finds the process that a former agent started. One of another version is ended: its successor is started.
func (r *Runner) adopt() {
	c, err := net.DialTimeout("unix", r.socket(), time.Second)
	if err != nil {
		return
	}
	r.take(c.(*net.UnixConn))
	rep, err := r.ask(order{})
	if err != nil {
		r.lose()
		return
	}
	r.ports = rep.Ports
	if rep.Program != program(r.Executable) {
		if err := r.end(); err != nil {
			r.Logger.Warn("the ingress process of another version does not end", "err", err)
		}
		return
	}
	r.Logger.Info("the ingress process was found as it was left", "ports", r.ports)
}

// program tells one executable from another.
func program(path string) string {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return ""
	}
	return fmt.Sprintf("%d/%d/%d", st.Dev, st.Ino, st.Mtim.Sec)
}

func (r *Runner) take(c *net.UnixConn) {
	r.conn, r.said, r.told, r.ports, r.taken = c, make(chan report, 1), nil, []int{0, 0}, nil
	go r.listen(c, r.said) // until the connection is closed, at either end
}

// listen hands on what the process says, and notices that it has ended.
func (r *Runner) listen(c *net.UnixConn, said chan<- report) {
	in := json.NewDecoder(c)
	for {
		var rep report
		if err := in.Decode(&rep); err != nil {
			break
		}
		said <- rep
	}
	close(said)
	r.mu.Lock()
	mine := r.conn == c
	if mine {
		r.lose()
	}
	r.mu.Unlock()
	if mine && r.Lost != nil {
		r.Logger.Warn("the ingress process has ended, and is started again")
		r.Lost()
	}
}

func (r *Runner) ask(o order) (report, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return report{}, err
	}
	return r.tell(text)
}

func (r *Runner) tell(text []byte) (rep report, err error) {
	if err := r.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return rep, err
	}
	if _, err := r.conn.Write(append(text, '\n')); err != nil {
		return rep, err
	}
	var ok bool
	select {
	case rep, ok = <-r.said:
		if !ok {
			return rep, errors.New("it has ended")
		}
	case <-time.After(patience):
		return rep, errors.New("it does not answer")
	}
	if rep.Error != "" {
		r.Logger.Warn("the ingress process cannot use all that it was told", "err", rep.Error)
	}
	return rep, nil
}

func (r *Runner) lose() {
	if r.conn != nil {
		r.conn.Close()
		r.conn, r.told = nil, nil
	}
}

// end ends the process. It finishes what is under way; its ports are free at once.
func (r *Runner) end() error {
	if r.conn == nil && !r.known {
		if c, err := net.DialTimeout("unix", r.socket(), time.Second); err == nil {
			r.take(c.(*net.UnixConn))
		}
	}
	r.known = true
	if r.conn == nil {
		return nil
	}
	_, err := r.ask(order{End: true})
	r.lose()
	r.ports, r.taken = nil, nil
	r.Logger.Info("the ingress process was told to end")
	_ = os.Remove(r.socket())
	if err != nil {
		return fmt.Errorf("end the ingress process: %w", err)
	}
	return nil
}

// Close lets go of the process, which goes on. Teardown ends it.
func (r *Runner) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lose()
	return nil
}

// Teardown ends the process.
func (r *Runner) Teardown() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.end()
}

// start starts the process with the ports that can be had.
func (r *Runner) start(wanted []int) error {
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return fmt.Errorf("start the ingress process: %w", err)
	}
	_ = os.Remove(r.socket())
	control, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.socket(), Net: "unix"})
	if err != nil {
		return fmt.Errorf("start the ingress process: %w", err)
	}
	control.SetUnlinkOnClose(false)
	defer control.Close()
	files, names, taken := []*os.File(nil), []string(nil), []Taken(nil)
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	pass := func(l interface{ File() (*os.File, error) }, name string) error {
		f, err := l.File()
		if err == nil {
			files, names = append(files, f), append(names, name)
		}
		return err
	}
	if err := pass(control, "control"); err != nil {
		return fmt.Errorf("start the ingress process: %w", err)
	}
	for i, what := range []string{"http", "https"} {
		if wanted[i] == 0 {
			continue
		}
		l, err := bind(wanted[i])
		if err != nil {
			taken = append(taken, Taken{Port: wanted[i], Err: err})
			continue
		}
		defer l.Close()
		if err := pass(l.(*net.TCPListener), what+"="+strconv.Itoa(wanted[i])); err != nil {
			return fmt.Errorf("start the ingress process: %w", err)
		}
	}
	if err := r.spawn(files, append(names, "program="+program(r.Executable))); err != nil {
		return fmt.Errorf("start the ingress process: %w", err)
	}
	c, err := net.DialTimeout("unix", r.socket(), time.Second)
	if err != nil {
		return fmt.Errorf("start the ingress process: %w", err)
	}
	r.take(c.(*net.UnixConn))
	rep, err := r.ask(order{})
	if err != nil {
		r.lose()
		return fmt.Errorf("start the ingress process: %w", err)
	}
	r.ports, r.taken = rep.Ports, taken
	return nil
}

// bind tries for a moment: a former process has only just let go of the port.
func bind(port int) (l net.Listener, err error) {
	for range 20 {
		if l, err = net.Listen("tcp", ":"+strconv.Itoa(port)); err == nil || !errors.Is(err, syscall.EADDRINUSE) {
			return l, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return l, err
}

func (r *Runner) spawn(files []*os.File, names []string) error {
	cmd := exec.Command(r.Executable, Command)
	cmd.Args[0] = Name
	cmd.Dir, cmd.Env = "/", []string{variable + "=" + strings.Join(names, ",")}
	cmd.Stderr, cmd.ExtraFiles = os.Stderr, files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // it may outlive this process; while this one lives it leaves no zombie
	return nil
}
