package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/runtime/container"
	"bramble.dev/runtime/image"
	"bramble.dev/runtime/sandbox"
	"bramble.dev/runtime/shim"
)

// Mount and Device are what a container is given of the host.
type (
	Mount  = container.Mount
	Device = container.Device
)

// ContainerSpec is a container as it is desired. Who it runs as, and what it may do, follow from Pod and Container.
type ContainerSpec struct {
	Pod           *corev1.Pod
	QOS           corev1.PodQOSClass // of the pod: whom the kernel kills first
	Container     *corev1.Container
	Resources     *corev1.ResourceRequirements // nil: the container's own
	Attempt       uint32
	ImageID       string   // "": the container's image by its name
	Env           []string // K=V, resolved
	Command, Args []string // expanded
	Mounts        []Mount
	Devices       []Device
	SpecHash      string
	LogPath       string
	Target        string // container whose processes an ephemeral container sees
}

// StartError says that a container could not be started; the container is then there, as one that has exited.
type StartError struct{ Message string }

func (e *StartError) Error() string { return e.Message }

// ConfigError says that the pod cannot be followed on this node (the kubelet's CreateContainerConfigError).
type ConfigError = container.ConfigError

// startTimeout bounds runc: a board that swaps takes its time, but not for ever.
const startTimeout = 2 * time.Minute

// StartContainer creates and starts a container.
func (e *Engine) StartContainer(ctx context.Context, sandboxID string, s ContainerSpec) (Container, error) {
	wrap := func(err error) error {
		return fmt.Errorf("start container %s of pod %s/%s: %w", s.Container.Name, s.Pod.Namespace, s.Pod.Name, err)
	}
	p, err := e.pod(sandboxID)
	if err != nil {
		return Container{}, wrap(err)
	}
	img, ok := e.images.Resolve(s.ImageID)
	if !ok {
		if img, ok = e.images.Resolve(s.Container.Image); !ok {
			return Container{}, wrap(fmt.Errorf("image %q is not here", s.Container.Image))
		}
	}
	if err := container.VerifyNonRoot(s.Pod, s.Container, img.Config.User); err != nil {
		return Container{}, err // in the kubelet's words, and no others
	}
	if s.Resources == nil {
		s.Resources = &s.Container.Resources
	}
	t := newTask(p, s, img)
	e.mu.Lock()
	if p.pause == 0 || p.stopped {
		e.mu.Unlock()
		return Container{}, wrap(errors.New("its sandbox is not ready"))
	}
	e.containers[t.rec.ID] = t
	e.mu.Unlock()
	// What has begun is brought to an end, whatever becomes of the caller: half a container is worse.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	argv, err := e.prepare(t, s, img)
	if err != nil {
		return Container{}, wrap(errors.Join(err, e.drop(ctx, t)))
	}
	state, err := p.client.Run(ctx, argv)
	var refused *shim.Error
	switch {
	case err == nil:
		e.began(t, state)
	case errors.As(err, &refused) && refused.Starter():
		x := sandbox.Exit{Code: startErrCode, Failed: true, FinishedAt: time.Now()}
		e.end(t, x)
		if back := e.giveBack(ctx, t); back != nil {
			return e.observed(t), wrap(errors.Join(&StartError{t.exit.Message}, back))
		}
		return e.observed(t), wrap(&StartError{t.exit.Message})
	default:
		return Container{}, wrap(errors.Join(err, e.drop(ctx, t)))
	}
	return e.observed(t), nil
}

func (e *Engine) observed(t *task) Container {
	e.mu.Lock()
	defer e.mu.Unlock()
	return t.observe()
}

func newTask(p *pod, s ContainerSpec, img image.Image) *task {
	c := s.Container
	stop := img.Config.StopSignal
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		stop = string(*c.Lifecycle.StopSignal)
	}
	return &task{pod: p, state: Created, exited: make(chan struct{}), rec: sandbox.Container{
		ID: newID(), Name: c.Name, Attempt: s.Attempt, Image: c.Image, ImageID: img.ID, SpecHash: s.SpecHash, LogPath: s.LogPath, Layers: img.Layers,
		CreatedAt: time.Now(), StopSignal: stop, TTY: c.TTY, Stdin: c.Stdin, StdinOnce: c.StdinOnce,
		FallbackLogs: c.TerminationMessagePolicy == corev1.TerminationMessageFallbackToLogsOnError,
		Given:        sandbox.Given{Resources: s.Resources},
	}}
}

// prepare puts everything in place for runc.
func (e *Engine) prepare(t *task, s ContainerSpec, img image.Image) (shim.Task, error) {
	var none shim.Task
	p, id := t.pod, t.rec.ID
	if err := e.dir.SaveContainer(p.rec.ID, t.rec); err != nil {
		return none, err
	}
	root, err := e.snap.Mount(id, img.Layers)
	if err != nil {
		return none, err
	}
	user, err := container.LookUp(root, s.Pod, s.Container, img.Config.User)
	if err != nil {
		return none, err
	}
	e.mu.Lock()
	t.rec.User = &user // kept with the record when the container has begun
	e.mu.Unlock()
	termination := e.terminationFile(t)
	if s.Container.TerminationMessagePath != "" {
		if err := writeFile(termination, nil, 0o666); err != nil {
			return none, err
		}
	}
	in := container.Input{
		Pod: s.Pod, QOS: s.QOS, Container: s.Container, Resources: *s.Resources, Image: img.Config, Root: root, User: user, Env: s.Env, Command: s.Command, Args: s.Args,
		Mounts: s.Mounts, Devices: s.Devices, Cgroup: e.cgroup.Path(e.cgroupOf(t)), Host: e.host, TargetPid: e.targetPid(p, s.Target),
		Sandbox: container.Sandbox{
			Pause: e.pausePid(p), NetNS: p.rec.NetNS, Hostname: p.rec.Hostname, Hosts: p.rec.HostsFile, ResolvConf: p.rec.ResolvConf,
			HostsName: filepath.Join(e.run(p), "hostname"), Shm: filepath.Join(e.run(p), "shm"), Termination: termination,
		},
	}
	if p.rec.HostIPC {
		in.Sandbox.Shm = "/dev/shm"
	}
	spec, err := container.Spec(in)
	if err != nil {
		return none, err
	}
	b, err := container.Encode(spec)
	if err != nil {
		return none, err
	}
	bundle := e.bundle(t)
	if err := os.Mkdir(bundle, 0o700); err != nil {
		return none, err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), b, 0o600); err != nil {
		return none, err
	}
	if err := os.MkdirAll(filepath.Dir(t.rec.LogPath), 0o755); err != nil {
		return none, err
	}
	return e.runTask(t), nil
}

func writeFile(path string, b []byte, mode os.FileMode) error {
	if err := os.WriteFile(path, b, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode) // whatever the umask
}

func (e *Engine) runTask(t *task) shim.Task {
	bundle := e.bundle(t)
	run := shim.Task{
		ID: t.rec.ID, PidFile: filepath.Join(bundle, "pid"), Log: t.rec.LogPath, LogSize: e.cfg.LogSize, LogFiles: e.cfg.LogFiles,
		ExitFile: e.dir.ExitFile(t.pod.rec.ID, t.rec.ID), OOMFile: e.cgroup.OOMFile(e.cgroupOf(t)), Stdin: t.rec.Stdin, Once: t.rec.StdinOnce,
	}
	run.Args = []string{e.cfg.Runc, "--root", e.runcRoot(), "--log", filepath.Join(bundle, "runc.log"), "--log-format", "json",
		"run", "--detach", "--bundle", bundle, "--pid-file", run.PidFile}
	if t.rec.TTY {
		run.Console = filepath.Join(bundle, "c")
		run.Args = append(run.Args, "--console-socket", run.Console)
	}
	run.Args = append(run.Args, t.rec.ID)
	return run
}

func (e *Engine) pausePid(p *pod) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return p.pause
}

func (e *Engine) targetPid(p *pod, name string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.containers {
		if name != "" && t.pod == p && t.rec.Name == name && t.state == Running {
			return t.pid
		}
	}
	return 0
}

// drop removes a container that was not brought so far that it could be reported.
func (e *Engine) drop(ctx context.Context, t *task) error {
	_ = t.pod.client.Signal(ctx, t.rec.ID, syscall.SIGKILL) // it may have begun after all
	e.end(t, sandbox.Exit{Code: startErrCode, Failed: true, FinishedAt: time.Now()})
	if err := e.giveBack(ctx, t); err != nil {
		return err
	}
	return e.forget(t)
}

func (e *Engine) forget(t *task) error {
	if err := e.dir.RemoveContainer(t.pod.rec.ID, t.rec.ID); err != nil {
		return err
	}
	e.mu.Lock()
	delete(e.containers, t.rec.ID)
	e.mu.Unlock()
	return nil
}

// StopContainer sends a container its stop signal, and kills it when the grace is over. It is no error if it has ended
// or is gone. A grace of zero kills at once.
func (e *Engine) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	t, err := e.task(id)
	if err != nil {
		return nil
	}
	if grace > 0 {
		if err := t.pod.client.Signal(ctx, id, stopSignal(t.rec.StopSignal)); err == nil && wait(ctx, t.exited, grace) {
			return nil
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("stop container %s: %w", id, context.Cause(ctx))
	}
	err = t.pod.client.Signal(ctx, id, unix.SIGKILL)
	if wait(ctx, t.exited, time.Second) {
		return nil
	}
	if kill := e.cgroup.Kill(e.cgroupOf(t)); kill != nil { // a shim that does not answer
		return fmt.Errorf("stop container %s: %w", id, errors.Join(err, kill))
	}
	select {
	case <-t.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop container %s: it does not die: %w", id, errors.Join(context.Cause(ctx), err))
	}
}

func wait(ctx context.Context, c <-chan struct{}, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-c:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// stopSignal reads SIGQUIT, QUIT or 3; anything else is SIGTERM.
func stopSignal(s string) syscall.Signal {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n < 65 {
		return syscall.Signal(n)
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig
	}
	if at, ok := strings.CutPrefix(name, "SIGRTMIN+"); ok {
		if n, err := strconv.Atoi(at); err == nil && n >= 0 && n <= 30 {
			return syscall.Signal(34 + n)
		}
	}
	return unix.SIGTERM
}

// RemoveContainer removes an ended container, and kills one that runs. Its logs stay: they are the agent's.
func (e *Engine) RemoveContainer(ctx context.Context, id string) error {
	t, err := e.task(id)
	if err != nil {
		return nil
	}
	if err := e.StopContainer(ctx, id, 0); err != nil {
		return err
	}
	if err := e.giveBack(ctx, t); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	if err := e.forget(t); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	e.changes.add(string(t.pod.rec.UID))
	return nil
}

// Wait returns when a container has ended.
func (e *Engine) Wait(ctx context.Context, id string) (Container, error) {
	t, err := e.task(id)
	if err != nil {
		return Container{}, err
	}
	select {
	case <-t.exited:
		return e.observed(t), nil
	case <-ctx.Done():
		return Container{}, context.Cause(ctx)
	}
}

// Exited is closed when a container has ended; it is closed already if there is none.
func (e *Engine) Exited(id string) <-chan struct{} {
	t, err := e.task(id)
	if err != nil {
		c := make(chan struct{})
		close(c)
		return c
	}
	return t.exited
}

func logMessage(line string) (string, bool) {
	var entry struct{ Level, Msg string }
	if err := json.Unmarshal([]byte(line), &entry); err != nil || !slices.Contains([]string{"error", "fatal"}, entry.Level) {
		return "", false
	}
	return entry.Msg, true
}
