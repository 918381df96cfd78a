package ingress

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
)

// Command is the argument with which the agent's executable is this process.
const Command = "ingress-process"

// Name is what the process is called in lists of processes.
const Name = "bramble-ingress"

// variable tells the process which of its files, from the first after the standard ones, is which.
const variable = "BRAMBLE_INGRESS"

const (
	connections = 8192 // that are served at a time, on each port; more wait
	drain       = 30 * time.Second
)

// order is what the agent says, and report what the process answers: one line of JSON each.
type order struct {
	Table *Table `json:"table,omitempty"`
	End   bool   `json:"end,omitempty"` // take no new connections, finish what is under way, and end
}

type report struct {
	Program string `json:"program"`         // of which executable the process is
	Ports   []int  `json:"ports"`           // on which it listens: HTTP, HTTPS; 0 for none
	Error   string `json:"error,omitempty"` // of the order
}

// Main is the process; it returns its exit code.
func Main() int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("part", "ingress")
	syscall.Umask(0o077)
	_ = os.WriteFile("/proc/self/comm", []byte(Name), 0) // only a name
	if err := serve(log); err != nil {
		log.Error("the ingress process ends", "err", err)
		return 1
	}
	return 0
}

type process struct {
	log     *slog.Logger
	proxy   *proxy
	certs   certs
	program string
	ports   []int
	servers []*http.Server

	mu    sync.Mutex    // one order at a time
	told  chan struct{} // closed with the first table
	ended chan struct{}
	once  sync.Once
}

func serve(log *slog.Logger) error {
	names := strings.Split(os.Getenv(variable), ",") // control, http=80, https=443, program
	p := &process{log: log, proxy: newProxy(log), told: make(chan struct{}), ended: make(chan struct{}), ports: []int{0, 0}}
	var control net.Listener
	var serving sync.WaitGroup
	for i, name := range names {
		what, value, _ := strings.Cut(name, "=")
		if what == "program" {
			p.program = value
			continue
		}
		l, err := listenerOf(3 + i)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if what == "control" {
			control = l
			continue
		}
		port, err := strconv.Atoi(value)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		p.listen(&serving, l, what == "https", port)
	}
	if control == nil {
		return errors.New("it is started by the agent, and by nobody else")
	}
	log.Info("Ingresses are served", "http", p.ports[0], "https", p.ports[1], "uid", os.Getuid())
	go p.control(control) // until the process ends
	<-p.ended
	control.Close()
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	for _, s := range p.servers {
		if err := s.Shutdown(ctx); err != nil {
			s.Close()
		}
	}
	serving.Wait()
	return nil
}

func listenerOf(fd int) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	return net.FileListener(f)
}

func (p *process) listen(serving *sync.WaitGroup, l net.Listener, secure bool, port int) {
	s := &http.Server{
		Handler: p.proxy, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	p.servers = append(p.servers, s)
	l = netutil.LimitListener(l, connections)
	if !secure {
		p.ports[0] = port
		serving.Go(func() { p.accept(l, s.Serve) })
		return
	}
	p.ports[1] = port
	s.TLSConfig = &tls.Config{GetCertificate: p.certs.get, MinVersion: tls.VersionTLS12}
	serving.Go(func() { p.accept(l, func(l net.Listener) error { return s.ServeTLS(l, "", "") }) })
}

// accept takes connections from the first table on. Before that no answer would be right: who comes waits in the kernel's queue.
func (p *process) accept(l net.Listener, serve func(net.Listener) error) {
	select {
	case <-p.told:
		_ = serve(l)
	case <-p.ended:
		l.Close()
	}
}

// control takes orders of agents, each on a connection of its own: that of one that died is closed by the kernel.
func (p *process) control(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go p.obey(c)
	}
}

func (p *process) obey(c net.Conn) {
	defer c.Close()
	in, out := json.NewDecoder(c), json.NewEncoder(c)
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			if !errors.Is(err, io.EOF) {
				p.log.Debug("an order cannot be read", "err", err)
			}
			return
		}
		r := p.take(o)
		if err := out.Encode(r); err != nil {
			return
		}
		if o.End {
			p.once.Do(func() { close(p.ended) })
			return
		}
	}
}

func (p *process) take(o order) report {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := report{Program: p.program, Ports: p.ports}
	if o.End {
		for _, s := range p.servers {
			s.SetKeepAlivesEnabled(false)
		}
		return r
	}
	if o.Table != nil {
		if err := p.certs.set(o.Table.Certs); err != nil {
			r.Error = err.Error()
		}
		o.Table.Certs = nil
		if p.proxy.table.Swap(o.Table) == nil {
			close(p.told)
		}
	}
	return r
}
