package hosts

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a program that runs in a host until it ends or is ended.
type Process struct {
	Name string
	Log  string // file with all that it printed

	host *Host
	cmd  *exec.Cmd
	pid  int // of the program itself, as this process sees it
	done chan struct{}
	err  error // how it ended, once done is closed
}

// Start runs a program in the host, in the background. Environment entries are given before the program: "A=b".
func (h *Host) Start(name string, argv ...string) (*Process, error) {
	logs := filepath.Join(h.lab.dir, "logs")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, err
	}
	p := &Process{Name: name, Log: filepath.Join(logs, h.Name+"-"+name+".log"), host: h, done: make(chan struct{})}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := h.enter(append([]string{"env"}, argv...))
	p.cmd = exec.Command(args[0], args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", name, h.Name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if err := p.find(); err != nil {
		return nil, err
	}
	return p, nil
}

// find waits for nsenter's child: the program itself, whose id this process needs in order to signal it.
func (p *Process) find() error {
	children := fmt.Sprintf("/proc/%d/task/%d/children", p.cmd.Process.Pid, p.cmd.Process.Pid)
	for range 500 {
		if data, err := os.ReadFile(children); err == nil {
			if f := strings.Fields(string(data)); len(f) > 0 {
				p.pid, err = strconv.Atoi(f[0])
				return err
			}
		}
		if p.Ended() {
			return fmt.Errorf("%s on %s ended at once (%v): %s", p.Name, p.host.Name, p.err, p.Tail(10))
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("%s on %s did not start", p.Name, p.host.Name)
}

// Pid is the program's process id as this process sees it.
func (p *Process) Pid() int { return p.pid }

// Ended tells whether the program has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Kill ends the program as a power failure would: SIGKILL, and no word before it.
func (p *Process) Kill() error {
	if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %s on %s: %w", p.Name, p.host.Name, err)
	}
	<-p.done
	return nil
}

// Stop asks the program to end and waits for it.
func (p *Process) Stop(patience time.Duration) error {
	if err := syscall.Kill(p.pid, syscall.SIGTERM); err != nil && !p.Ended() {
		return fmt.Errorf("stop %s on %s: %w", p.Name, p.host.Name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
		_ = p.Kill()
		return fmt.Errorf("%s on %s did not end within %s of SIGTERM: %s", p.Name, p.host.Name, patience, p.Tail(20))
	}
}

// Tail is the end of what it printed.
func (p *Process) Tail(lines int) string {
	data, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return lastLines(string(data), lines)
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
