package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof" //nolint // only with --profiles
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"bramble.dev/test/hosts"
	"bramble.dev/test/simulated"
)

// scale: simulated nodes (test/simulated says what is fake about them) on one real server. A pod is started by its share of
// Deployments of 100 pods, and one in ten of these has a Service.
func scale(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("/var/tmp", "bramble-scale-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := &scaled{bench: bench{ctx: ctx, o: o}, dir: dir}
	if err := s.start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	// The nodes' disks are in memory: a thousand boards have a thousand cards, and here they would share one.
	cards := filepath.Join(dir, "cards")
	if err := os.Mkdir(cards, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", cards, "tmpfs", 0, "size=8g"); err != nil {
		return fmt.Errorf("tmpfs for the nodes' databases: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(cards, unix.MNT_DETACH)) }()
	if o.profiles != "" {
		go func() { fmt.Fprintln(os.Stderr, "profiles:", http.ListenAndServe(o.profiles, nil)) }()
	}
	nodes := simulated.New(simulated.Options{Servers: []string{"mqtts://" + s.mqtt}, Token: s.token, Dir: cards, Count: o.nodes})
	run, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- nodes.Run(run) }()
	err = s.measure(nodes, ended)
	cancel()
	select {
	case failed := <-ended:
		err = errors.Join(err, failed)
	case <-time.After(time.Minute):
		err = errors.Join(err, errors.New("the simulated nodes do not end"))
	}
	fmt.Print(table(s.rows))
	return err
}

type scaled struct {
	bench
	dir, mqtt, token string
	server           *exec.Cmd
	client           kubernetes.Interface
}

// start starts a server of its own, on ports that are free.
func (s *scaled) start() error {
	api, err := freePort()
	if err != nil {
		return err
	}
	if s.mqtt, err = freePort(); err != nil {
		return err
	}
	program := filepath.Join(s.o.bin, "bramble")
	if s.o.server != "" {
		program = s.o.server
	}
	log, err := os.Create(filepath.Join(s.dir, "server.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	data := filepath.Join(s.dir, "server")
	// A pod range with room for a /24 each.
	s.server = exec.Command(program, "server", "--data-dir", data, "--api-listen", api, "--mqtt-listen", s.mqtt, "--pod-cidr", "10.32.0.0/12", "--service-cidr", "10.96.0.0/16")
	s.server.Stdout, s.server.Stderr = log, log
	s.server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.server.Start(); err != nil {
		return err
	}
	return hosts.Eventually(s.ctx, time.Minute, func() error {
		out, err := exec.Command(filepath.Join(s.o.bin, "bramble"), "token", "create", "--data-dir", data).Output()
		if err != nil {
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("the server is not ready: %w: %s", err, text)
		}
		s.token = strings.TrimSpace(string(out))
		s.client, err = clientOf(filepath.Join(data, "kubeconfig"))
		return err
	})
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (s *scaled) stop() error {
	_ = s.server.Process.Signal(syscall.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- s.server.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(time.Minute):
		return errors.Join(errors.New("the server does not end within a minute of SIGTERM"), s.server.Process.Kill())
	}
}

// revision is the newest of the store: each write of an object takes one.
func (s *scaled) revision() (float64, error) {
	list, err := s.client.CoreV1().Namespaces().List(s.ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(list.ResourceVersion, 64)
}

// moment is what has been used until now.
type moment struct {
	at                                   time.Time
	revision, written, cpu, nodes, bytes float64
}

func (s *scaled) now(nodes *simulated.Nodes) (moment, error) {
	revision, err := s.revision()
	own, _ := cpuOf(s.server.Process.Pid)
	ours, _ := cpuOf(os.Getpid())
	return moment{time.Now(), revision, float64(written([]int{s.server.Process.Pid})), own, ours, float64(nodes.Bytes())}, err
}

func (s *scaled) measure(nodes *simulated.Nodes, ended chan error) error {
	ctx, cancel := context.WithTimeout(s.ctx, s.o.patience)
	defer cancel()
	go func() {
		select {
		case err := <-ended:
			ended <- err
			cancel()
		case <-ctx.Done():
		}
	}()
	count, pods := float64(s.o.nodes), s.o.scalePods
	first, err := s.now(nodes)
	if err != nil {
		return err
	}
	if err := simulated.NodesReady(ctx, s.client, s.o.nodes); err != nil {
		return err
	}
	joined, err := s.now(nodes)
	if err != nil {
		return err
	}
	s.row(fmt.Sprintf("%d nodes joined at once, until all are Ready", s.o.nodes), joined.at.Sub(first.at).Seconds(), "s")
	s.row("server's CPU for that", joined.cpu-first.cpu, "s")
	s.row("simulated nodes' CPU for that", joined.nodes-first.nodes, "s")
	s.row("over each node's link for that", (joined.bytes-first.bytes)/count/1024, "KiB")
	s.memory("with the nodes")

	paces, failed := make(chan simulated.Pace, 1), make(chan error, 1)
	go func() {
		pace, err := simulated.AllReady(ctx, s.client, pods)
		paces <- pace
		failed <- err
	}()
	each := min(100, pods)
	load := simulated.Load{Deployments: pods / each, Replicas: each, Services: max(pods/each/10, 1)}
	if err := load.Create(ctx, s.client); err != nil {
		return err
	}
	pace := <-paces
	if err := <-failed; err != nil {
		return err
	}
	done, err := s.now(nodes)
	if err != nil {
		return err
	}
	s.rows = append(s.rows, row{what: fmt.Sprintf("%d pods created, until all are Ready", pods), budget: "converges", measured: number(pace.Took.Seconds()) + " s"})
	s.row("a node's slowest pod from bound to Ready, median node", pace.Median.Seconds(), "s")
	s.row("the same, slowest node ("+pace.SlowestNode+")", pace.Slowest.Seconds(), "s")
	s.atMost("slowest node, in medians (no agent starved)", 5, pace.Slowest.Seconds()/pace.Median.Seconds(), "x", "")
	s.memory("with the pods")
	if err := s.sleep(20 * time.Second); err != nil { // what was gathered is written
		return err
	}
	after, err := s.now(nodes)
	if err != nil {
		return err
	}
	s.row("objects written, a pod", (after.revision-joined.revision)/float64(pods), "")
	s.row("bytes to the server's disk, a pod", (after.written-joined.written)/float64(pods), "bytes")
	s.row("server's CPU, a pod", 1000*(done.cpu-joined.cpu)/float64(pods), "ms")
	s.row("simulated nodes' CPU, a pod", 1000*(done.nodes-joined.nodes)/float64(pods), "ms")
	s.row("over each node's link", (after.bytes-joined.bytes)/count/1024, "KiB")
	if err := s.quiet(ctx, nodes); err != nil {
		return err
	}
	if err := s.change(ctx, nodes, min(10, pods/each), each); err != nil {
		return err
	}
	peak, err := meminfo(fmt.Sprintf("/proc/%d/status", s.server.Process.Pid))
	if err != nil {
		return err
	}
	s.atMost("server, most that was resident", 512, peak["VmHWM"]/1024, "MiB", "")
	return nil
}

// quiet: a minute in which nobody wants anything.
func (s *scaled) quiet(ctx context.Context, nodes *simulated.Nodes) error {
	if err := s.sleep(time.Minute); err != nil { // a look at what can be given back is taken once a minute
		return err
	}
	before, err := s.now(nodes)
	if err != nil {
		return err
	}
	if err := s.sleep(time.Minute); err != nil {
		return err
	}
	after, err := s.now(nodes)
	if err != nil {
		return err
	}
	s.row("a quiet minute: objects written", after.revision-before.revision, "")
	s.row("server's CPU", 1000*(after.cpu-before.cpu), "ms")
	s.atMost("over each node's link", 1024, (after.bytes-before.bytes)/float64(s.o.nodes), "bytes", "")
	s.memory("then")
	return ctx.Err()
}

// change: one pod more behind a Service, and then a rollout of Deployments, of which the first have Services.
func (s *scaled) change(ctx context.Context, nodes *simulated.Nodes, deployments, each int) error {
	count := float64(s.o.nodes)
	before, err := s.now(nodes)
	if err != nil {
		return err
	}
	bound, ready, err := simulated.OneMore(ctx, s.client, "load-000")
	if err != nil {
		return err
	}
	if err := s.sleep(5 * time.Second); err != nil { // until all nodes know
		return err
	}
	one, err := s.now(nodes)
	if err != nil {
		return err
	}
	s.row("one pod more behind a Service, until it is bound", float64(bound.Milliseconds()), "ms")
	s.row("until it is Ready", float64(ready.Milliseconds()), "ms")
	s.row("server's CPU for that", 1000*(one.cpu-before.cpu), "ms")
	s.row("over each node's link for that", (one.bytes-before.bytes)/count, "bytes")
	took, err := simulated.Roll(ctx, s.client, deployments)
	if err != nil {
		return err
	}
	rolled, err := s.now(nodes)
	if err != nil {
		return err
	}
	pods := float64(deployments*each + 1)
	s.row(fmt.Sprintf("a rollout of %d pods", int(pods)), took.Seconds(), "s")
	s.row("objects written, a pod", (rolled.revision-one.revision)/pods, "")
	s.row("server's CPU, a pod", 1000*(rolled.cpu-one.cpu)/pods, "ms")
	s.row("over each node's link", (rolled.bytes-one.bytes)/count/1024, "KiB")
	return nil
}

func (s *scaled) row(what string, measured float64, unit string) {
	s.atMost(what, 0, measured, unit, "")
}

func (s *scaled) memory(when string) {
	if u, err := usageOf(s.server.Process.Pid); err == nil {
		s.row("server "+when+", resident", u.resident, "MiB")
		s.row("server "+when+", anonymous", u.anonymous, "MiB")
	}
}
