package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/runtime/container"
	"bramble.dev/runtime/sandbox"
	"bramble.dev/runtime/shim"
)

// SandboxSpec is a sandbox as it is desired.
type SandboxSpec struct {
	Pod        *corev1.Pod
	Attempt    uint32
	Hostname   string
	NetNS      string // path; "" is the host's network
	ResolvConf string // host path of the file that containers see as /etc/resolv.conf
	HostsFile  string // and as /etc/hosts
	LogDir     string // made if need be
}

// RunSandbox makes the pod's cgroup, starts its shim and its pause process. Nothing is left behind if it fails.
func (e *Engine) RunSandbox(ctx context.Context, s SandboxSpec) (Sandbox, error) {
	where := s.Pod.Namespace + "/" + s.Pod.Name
	if (s.NetNS == "") != s.Pod.Spec.HostNetwork {
		return Sandbox{}, fmt.Errorf("run sandbox of pod %s: a network namespace is needed unless the pod has hostNetwork", where)
	}
	spec := s.Pod.Spec
	p := &pod{rec: sandbox.Record{
		ID: newID(), UID: s.Pod.UID, Namespace: s.Pod.Namespace, Name: s.Pod.Name, Attempt: s.Attempt, CreatedAt: time.Now(), BootID: e.bootID,
		Hostname: s.Hostname, NetNS: s.NetNS, ResolvConf: s.ResolvConf, HostsFile: s.HostsFile, HostIPC: spec.HostIPC,
		SharedPID: spec.HostPID || (spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace),
	}}
	p.short = short(p.rec.ID)
	p.rec.Cgroup = "pod" + strings.ReplaceAll(string(s.Pod.UID), "/", "_") + "_" + p.short
	p.client = shim.Client{Dir: e.run(p)}
	if s.Hostname == "" || spec.HostNetwork {
		p.rec.Hostname, _ = os.Hostname()
	}
	if err := e.runSandbox(ctx, p, s); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		left := e.dismantle(undo, p)
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.pods, p.rec.ID)
		if left != nil { // whoever lists sandboxes sees it, as one that is not ready, and can remove it
			p.pause, e.pods[p.rec.ID] = 0, p
		}
		return Sandbox{}, fmt.Errorf("run sandbox of pod %s: %w", where, errors.Join(err, left))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return p.observe(), nil
}

func (e *Engine) runSandbox(ctx context.Context, p *pod, s SandboxSpec) error {
	c := shim.Config{
		Program: e.cfg.Shim, Pause: e.cfg.Pause, Dir: e.run(p), Empty: filepath.Join(e.run(p), "empty"), NetNS: s.NetNS, Hostname: p.rec.Hostname,
		IPC: !s.Pod.Spec.HostIPC, UTS: !s.Pod.Spec.HostNetwork, PID: s.Pod.Spec.ShareProcessNamespace != nil && *s.Pod.Spec.ShareProcessNamespace && !s.Pod.Spec.HostPID,
	}
	var err error
	if c.Sysctls, c.Wishes, err = sysctls(s.Pod); err != nil {
		return err
	}
	if err := e.dir.Save(p.rec); err != nil {
		return err
	}
	if s.LogDir != "" {
		if err := os.MkdirAll(s.LogDir, 0o755); err != nil {
			return err
		}
	}
	if err := e.runFolder(p); err != nil {
		return err
	}
	if err := e.cgroup.Create(p.rec.Cgroup, container.PodResources(s.Pod)); err != nil {
		return err
	}
	given := container.PodRequirements(s.Pod)
	p.rec.Given = sandbox.Given{Resources: &given, Held: e.cgroup.Limits(p.rec.Cgroup)}
	p.actual = &given
	if err := e.dir.Save(p.rec); err != nil {
		return err
	}
	if c.CgroupProcs, err = e.cgroup.Join(p.rec.Cgroup); err != nil {
		return err
	}
	if err := shim.Start(ctx, c); err != nil {
		return err
	}
	w, err := p.client.Watch(ctx)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errors.Join(errors.New("the engine is closed"), w.Close())
	}
	e.pods[p.rec.ID] = p
	e.follow(p, w)
	return nil
}

// runFolder makes the sandbox's folder for what need not survive a reboot.
func (e *Engine) runFolder(p *pod) error {
	dir := e.run(p)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o555); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "hostname"), []byte(p.rec.Hostname+"\n"), 0o644); err != nil {
		return err
	}
	if p.rec.HostIPC {
		return nil
	}
	shm := filepath.Join(dir, "shm")
	if err := os.Mkdir(shm, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("shm", shm, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=1777,size=64m"); err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	return nil
}

// sysctls translates the pod's; wanted must work, wishes may be unknown to the kernel.
func sysctls(pod *corev1.Pod) (wanted, wishes []string, err error) {
	file := func(name, value string) string {
		return "/proc/sys/" + strings.ReplaceAll(name, ".", "/") + "=" + value
	}
	if !pod.Spec.HostNetwork { // as containerd: a pod's network is its own
		wishes = append(wishes, file("net.ipv4.ip_unprivileged_port_start", "0"), file("net.ipv4.ping_group_range", "0 2147483647"))
	}
	if pod.Spec.SecurityContext == nil {
		return nil, wishes, nil
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		name := strings.ReplaceAll(s.Name, "/", ".")
		ipc := strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") || name == "kernel.sem" || strings.HasPrefix(name, "fs.mqueue.")
		net := strings.HasPrefix(name, "net.")
		if strings.Contains(name, "..") || !(ipc && !pod.Spec.HostIPC) && !(net && !pod.Spec.HostNetwork) {
			return nil, nil, &container.ConfigError{Err: fmt.Errorf("securityContext.sysctls: %q is not the pod's own", s.Name)}
		}
		wanted = append(wanted, file(name, s.Value))
	}
	return wanted, wishes, nil
}

// FenceSandbox has a sandbox's shim kill the pod at a moment of the clock CLOCK_BOOTTIME, with or without this process.
func (e *Engine) FenceSandbox(ctx context.Context, id string, at time.Duration) error {
	p, err := e.pod(id)
	if err != nil {
		return err
	}
	return p.client.Fence(ctx, at)
}

// StopSandbox kills what still runs in a sandbox, and its shim. The records of its containers stay.
func (e *Engine) StopSandbox(ctx context.Context, id string) error {
	p, err := e.pod(id)
	if err != nil {
		return nil // it is gone: that was wanted
	}
	if err := e.stopSandbox(ctx, p); err != nil {
		return fmt.Errorf("stop sandbox %s: %w", id, err)
	}
	return nil
}

func (e *Engine) stopSandbox(ctx context.Context, p *pod) error {
	e.mu.Lock()
	p.stopped = true
	watched := p.watched
	e.mu.Unlock()
	if err := e.kill(ctx, p); err != nil {
		return err
	}
	if watched != nil {
		select {
		case <-watched: // everything that the shim had to tell has been heard
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for _, t := range e.tasksOf(p) {
		e.end(t, e.lostExit(t))
		if err := e.giveBack(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// kill kills everything of a sandbox and ends its shim. The shim waits for its children, and in a pod with the host's
// processes it may be given orphans of which it knows nothing: so the cgroup is killed until the shim is gone.
func (e *Engine) kill(ctx context.Context, p *pod) error {
	for patience := 50 * time.Millisecond; ; patience *= 2 {
		if err := e.cgroup.Kill(p.rec.Cgroup); err != nil {
			return err
		}
		short, cancel := context.WithTimeout(ctx, patience)
		err := p.client.Shutdown(short)
		cancel()
		if err == nil {
			return e.cgroup.Kill(p.rec.Cgroup)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("its processes do not die: %w", context.Cause(ctx))
		}
	}
}

// RemoveSandbox stops a sandbox if need be and removes everything of it but its logs. It is no error if it is gone.
func (e *Engine) RemoveSandbox(ctx context.Context, id string) error {
	p, err := e.pod(id)
	if err != nil {
		return nil
	}
	if err := e.stopSandbox(ctx, p); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	if err := e.dismantle(ctx, p); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	e.mu.Lock()
	delete(e.pods, id)
	for cid, t := range e.containers {
		if t.pod == p {
			delete(e.containers, cid)
		}
	}
	e.mu.Unlock()
	e.changes.add(string(p.rec.UID))
	return nil
}

// dismantle removes what a sandbox holds; the record is the last, so that a crash leaves something to go on with.
func (e *Engine) dismantle(ctx context.Context, p *pod) error {
	if err := e.kill(ctx, p); err != nil {
		return err
	}
	if err := e.cgroup.Remove(ctx, p.rec.Cgroup); err != nil {
		return err
	}
	if err := removeRunFolder(e.run(p)); err != nil {
		return err
	}
	return e.dir.Remove(p.rec.ID)
}

func removeRunFolder(dir string) error {
	err := unix.Unmount(filepath.Join(dir, "shm"), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount /dev/shm of a pod: %w", err)
	}
	return os.RemoveAll(dir)
}
