package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/events"
	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/state"
	"bramble.dev/agent/status"
)

// apply takes one step and records what came of it. It says whether the pod is forgotten.
func (w *worker) apply(ctx context.Context, pod *corev1.Pod, a Action) bool {
	switch a.Kind {
	case Mount:
		w.mount(ctx, pod)
	case RunSandbox:
		w.runSandbox(ctx, pod, a)
	case StopSandbox:
		end := w.giveUp(ctx, pod, w.memory.Evicted != nil, 0)
		err := w.m.Runtime.StopSandbox(ctx, a.ID)
		end()
		w.ending(err, "stop the sandbox", pod)
	case RemoveSandbox:
		if w.durable(ctx) {
			w.ending(w.m.Runtime.RemoveSandbox(ctx, a.ID), "remove the sandbox", pod)
		}
	case EnsureImage:
		w.ensureImage(ctx, pod, a.Container)
	case StartContainer:
		w.startContainer(ctx, pod, a)
	case HoldBack:
		w.holdBack(pod, a)
	case WriteLimits:
		w.writeLimits(ctx, pod)
	case BeginStop:
		w.beginStop(ctx, pod, a)
	case PreStopAgain:
		w.preStop(ctx, pod, a)
	case StopContainer:
		w.stopContainer(ctx, pod, a)
	case RemoveContainer:
		if w.durable(ctx) {
			w.removeContainer(ctx, a)
		}
	case Evict:
		w.memory.Evicted = &status.Waiting{Reason: a.Reason, Message: a.Message}
		w.m.Events.Event(events.Pod(pod), corev1.EventTypeNormal, a.Reason, a.Message)
	case Finish:
		w.finish(ctx, pod)
	case Forget:
		return w.forget(ctx, pod)
	}
	return false
}

func (w *worker) past(name string, change func(*Past)) {
	past := w.memory.Containers[name]
	change(&past)
	w.memory.Containers[name] = past
}

// durable makes sure that what is about to be removed has been remembered.
func (w *worker) durable(ctx context.Context) bool {
	err := w.saveNow(ctx, w.box.peek())
	if err != nil {
		w.log.Error("a pod's record could not be written; nothing is removed before it is", "err", err)
		w.memory.End = w.memory.End.failed(time.Now(), time.Second, maxEndRetry)
		w.wait(ctx, time.Now().Add(time.Second))
	}
	return err == nil
}

// ending records how a step towards the end of the pod or of its sandbox went.
func (w *worker) ending(err error, what string, pod *corev1.Pod) {
	if err == nil {
		w.memory.End = Retry{}
		return
	}
	w.log.Error("could not "+what, "err", err)
	w.m.Events.Eventf(events.Pod(pod), corev1.EventTypeWarning, events.FailedKillPod, "error killing pod: %v", err)
	w.memory.End = w.memory.End.failed(time.Now(), time.Second, maxEndRetry)
	w.memory.Sandbox = w.memory.Sandbox.failed(time.Now(), time.Second, maxSandboxRetry)
}

func (w *worker) mount(ctx context.Context, pod *corev1.Pod) {
	paths, err := w.m.Volumes.Mount(ctx, pod)
	if err != nil {
		w.memory.Volumes = w.memory.Volumes.failed(time.Now(), 500*time.Millisecond, maxVolumeRetry)
		message := err.Error()
		if !strings.HasPrefix(message, "MountVolume") {
			message = "MountVolume.SetUp failed: " + message
		}
		w.m.Events.Event(events.Pod(pod), corev1.EventTypeWarning, events.FailedMount, message)
		for c := range podspec.VolumeImages(pod) { // it may have been removed since it was fetched
			if _, here := w.m.Images.Resolve(ctx, podspec.ImageRef(c.Image)); !here {
				w.past(c.Name, func(p *Past) { p.Image = Image{} })
			}
		}
		return
	}
	w.memory.Volumes = Retry{}
	for c := range podspec.VolumeImages(pod) {
		w.past(c.Name, func(p *Past) { p.Waiting = nil })
	}
	if paths == nil {
		paths = map[string]string{}
	}
	w.volumes = paths
}

func (w *worker) runSandbox(ctx context.Context, pod *corev1.Pod, a Action) {
	if a.Attempt > 0 {
		w.m.Events.Event(events.Pod(pod), corev1.EventTypeNormal, events.SandboxChanged, "Pod sandbox changed, it will be killed and re-created.")
	}
	if err := devices(pod); err != nil {
		w.m.Events.Eventf(events.Pod(pod), corev1.EventTypeWarning, events.FailedPrepareDynamicResources, "Failed to prepare dynamic resources: %v", err)
		w.memory.Sandbox = w.memory.Sandbox.failed(time.Now(), time.Second, maxSandboxRetry)
		return
	}
	if err := w.sandbox(ctx, pod, a.Attempt); err != nil {
		if ctx.Err() != nil || w.box.peek().Ending() {
			return // no error of the pod's: it, or the agent, is ending
		}
		w.m.Events.Eventf(events.Pod(pod), corev1.EventTypeWarning, events.FailedCreatePodSandBox, "Failed to create pod sandbox: %v", err)
		w.memory.Sandbox = w.memory.Sandbox.failed(time.Now(), time.Second, maxSandboxRetry)
		return
	}
	w.memory.Sandbox = Retry{}
}

// devices says why a pod must not start whose claims ask for devices: there is nobody here to hand them out. The scheduler
// lets no such pod through, but a pod may name its node itself.
func devices(pod *corev1.Pod) error {
	claims := pod.Spec.ResourceClaims
	switch {
	case len(claims) == 0:
		return nil
	case claims[0].ResourceClaimName != nil:
		return fmt.Errorf("ResourceClaim %s: no DRA driver is registered", *claims[0].ResourceClaimName)
	}
	return fmt.Errorf("pod %q: ResourceClaim not created yet", pod.Namespace+"/"+pod.Name)
}

// handler says why the runtime is not the one that a pod's RuntimeClass names.
func (w *worker) handler(pod *corev1.Pod) error {
	class := pod.Spec.RuntimeClassName
	if class == nil || *class == "" {
		return nil
	}
	switch handler, ok := w.m.Objects.RuntimeHandler(*class); {
	case !ok:
		return fmt.Errorf("runtimeclass.node.k8s.io %q not found", *class)
	case handler != "runc":
		return fmt.Errorf("no runtime for %q is configured", handler)
	}
	return nil
}

func (w *worker) sandbox(ctx context.Context, pod *corev1.Pod, attempt uint32) error {
	defer w.slot(ctx)()
	if err := w.handler(pod); err != nil {
		return err
	}
	facts := w.m.Facts()
	name, err := podspec.UTSName(pod, facts.ClusterDomain)
	if err != nil {
		return err
	}
	dir := w.m.podDir(pod.UID)
	logs := LogDir(w.m.Dir, pod.Namespace, pod.Name, pod.UID)
	for _, d := range []string{dir, logs} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("create a pod's folder: %w", err)
		}
	}
	spec := seam.SandboxSpec{Pod: pod, Attempt: attempt, Hostname: name, LogDir: logs, ResolvConf: filepath.Join(dir, "resolv.conf"), HostsFile: filepath.Join(dir, "etc-hosts")}
	if err := w.resolvConf(pod, facts, spec.ResolvConf); err != nil {
		return err
	}
	ips := facts.HostIPs
	if !pod.Spec.HostNetwork {
		at, err := w.m.Network.Attach(ctx, pod)
		if err != nil {
			return fmt.Errorf("attach the pod to the network: %w", err)
		}
		spec.NetNS, ips = at.NetNS, []string{at.IP.String()}
	}
	if err := w.hosts(pod, facts, ips, spec.HostsFile); err != nil {
		return err
	}
	s, err := w.m.Runtime.RunSandbox(ctx, spec)
	if err != nil {
		return err
	}
	w.ips, w.ipOf = ips, s.ID
	return nil
}

// slot waits for a turn: a board that starts thirty pods at once starts none of them in time.
func (w *worker) slot(ctx context.Context) (release func()) {
	select {
	case w.m.slots <- struct{}{}:
		return func() { <-w.m.slots }
	case <-ctx.Done():
		return func() {}
	}
}

func (w *worker) resolvConf(pod *corev1.Pod, facts Facts, path string) error {
	content, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the node's resolver configuration: %w", err)
	}
	dns, warnings := podspec.PodDNS(pod, podspec.ParseResolvConf(string(content)), facts.ClusterDNS, facts.ClusterDomain)
	for _, warning := range warnings {
		w.m.Events.Event(events.Pod(pod), corev1.EventTypeWarning, events.DNSConfigForming, warning)
	}
	return os.WriteFile(path, []byte(dns.ResolvConf()), 0o644)
}

func (w *worker) hosts(pod *corev1.Pod, facts Facts, ips []string, path string) error {
	host, domain, err := podspec.Hostname(pod, facts.ClusterDomain)
	if err != nil {
		return err
	}
	var node []byte
	if pod.Spec.HostNetwork {
		if node, err = os.ReadFile("/etc/hosts"); err != nil {
			return fmt.Errorf("read the node's hosts file: %w", err)
		}
	}
	return os.WriteFile(path, []byte(podspec.Hosts(pod, ips, host, domain, string(node))), 0o644)
}

func (w *worker) holdBack(pod *corev1.Pod, a Action) {
	w.past(a.Container, func(p *Past) { p.Waiting = &status.Waiting{Reason: a.Reason, Message: a.Message} })
	ref := events.Container(pod, a.Container)
	switch a.Reason {
	case crashLoopBackOff:
		w.m.Events.Eventf(ref, corev1.EventTypeWarning, events.BackOff, "Back-off restarting failed container %s in pod %s", a.Container, podspec.Full(pod))
	case imagePullBackOff:
		c, _ := podspec.Fetched(pod, a.Container)
		w.m.Events.Eventf(ref, corev1.EventTypeNormal, events.BackOff, "Back-off pulling image %q", c.Image)
		w.m.Events.Event(ref, corev1.EventTypeWarning, events.Failed, "Error: "+imagePullBackOff)
	}
}

func (w *worker) beginStop(ctx context.Context, pod *corev1.Pod, a Action) {
	now := time.Now()
	w.past(a.Container, func(p *Past) {
		p.Stop = &Stop{ID: a.ID, Since: now, Grace: a.Grace}
		if a.Cause.startsAnew() {
			p.Again = a.ID
		}
	})
	w.m.Events.Event(events.Container(pod, a.Container), corev1.EventTypeNormal, events.Killing, a.Message)
	w.cancel(a.ID) // a postStart hook
	w.preStop(ctx, pod, a)
}

// preStop runs a container's hook, if it has one. A hook is delivered at least once, as upstream's: that it has begun is remembered until it
// has ended, so that an agent which is restarted meanwhile (an upgrade) runs it again and does not take it for done.
func (w *worker) preStop(ctx context.Context, pod *corev1.Pod, a Action) {
	c, ok := podspec.Find(pod, a.Container)
	hooked := ok && c.Lifecycle != nil && c.Lifecycle.PreStop != nil && a.Grace > 0
	began := func(began bool) {
		w.past(a.Container, func(p *Past) {
			stop := *p.Stop // not the one that a plan or a record still holds
			stop.Hook = began
			p.Stop = &stop
		})
	}
	began(hooked)
	if !hooked {
		return
	}
	ip := w.ip(pod)
	w.start(ctx, a.ID, PreStop, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, a.Grace)
		defer cancel()
		return w.m.Hooks.Run(ctx, pod, c.Container, a.ID, ip, c.Lifecycle.PreStop)
	}, func(err error) {
		began(false)
		if err != nil {
			w.log.Info("a preStop hook failed", "container", a.Container, "err", err)
			w.m.Events.Event(events.Container(pod, a.Container), corev1.EventTypeWarning, events.FailedPreStopHook, "PreStopHook failed")
		}
	})
}

func (w *worker) ip(pod *corev1.Pod) string {
	ips := w.ips
	if pod.Spec.HostNetwork {
		ips = w.m.Facts().HostIPs
	}
	if len(ips) == 0 {
		return ""
	}
	return ips[0]
}

func (w *worker) stopContainer(ctx context.Context, pod *corev1.Pod, a Action) {
	now := time.Now()
	w.past(a.Container, func(p *Past) {
		if p.Stop == nil || p.Stop.ID != a.ID {
			p.Stop = &Stop{ID: a.ID, Since: now, Grace: a.Grace}
		}
		stop := *p.Stop // not the one that a plan or a record still holds
		stop.KillAt = now.Add(a.Grace)
		p.Stop = &stop
	})
	failed := w.memory.Evicted != nil
	w.start(ctx, a.ID, Stopping, func(ctx context.Context) error {
		defer w.giveUp(ctx, pod, failed, a.Grace)()
		return w.m.Runtime.StopContainer(ctx, a.ID, a.Grace)
	}, func(err error) {
		if err == nil {
			return
		}
		w.log.Error("a container could not be stopped", "container", a.Container, "id", a.ID, "err", err)
		w.past(a.Container, func(p *Past) { p.NotBefore = time.Now().Add(2 * time.Second) })
	})
}

func (w *worker) removeContainer(ctx context.Context, a Action) {
	if err := w.m.Runtime.RemoveContainer(ctx, a.ID); err != nil {
		w.log.Error("a container could not be removed", "container", a.Container, "id", a.ID, "err", err)
		w.wait(ctx, time.Now().Add(time.Second))
		return
	}
	if a.Cause == RestartsAll { // what held it back is over with it
		w.past(a.Container, func(p *Past) { p.Waiting, p.NotBefore = nil, time.Time{} })
	}
}

// finish gives back what the pod holds of the node. Its dead containers stay until the server has
// dropped the pod: their logs can be read until then.
func (w *worker) finish(ctx context.Context, pod *corev1.Pod) {
	w.m.Prober.Remove(pod.UID)
	for key := range w.jobs {
		w.cancel(key)
	}
	err := errors.Join(w.m.Network.Detach(ctx, pod.UID), w.unmount(ctx, pod))
	w.ending(err, "give back the pod's network and volumes", pod)
	if err != nil {
		return
	}
	w.volumes = nil
	w.memory.Finished = true
	w.m.resizeAgain()
	w.memory.Sandbox, w.memory.Volumes = Retry{}, Retry{}
}

func (w *worker) forget(ctx context.Context, pod *corev1.Pod) bool {
	err := errors.Join(
		os.RemoveAll(w.m.podDir(pod.UID)),
		os.RemoveAll(LogDir(w.m.Dir, pod.Namespace, pod.Name, pod.UID)),
	)
	if err != nil {
		w.ending(fmt.Errorf("remove the pod's files: %w", err), "forget the pod", pod)
		return false
	}
	w.m.Retract(pod)
	w.m.Events.Forget(pod.UID)
	w.m.Store.Queue(state.Pods, string(pod.UID), nil)
	return true
}
