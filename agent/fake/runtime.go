// Package fake runs containers that exist only in memory, for tests of the agent and for scale
// tests: a runtime, images, a network and volumes that keep the contracts of package seam.
//
// Invariant: it refuses what a real runtime must never be asked for: a second running container of
// one name in a pod, or a container in a sandbox that is not ready. Its clock is the one of package
// time, so that testing/synctest can turn it.
//
//	rt := fake.NewRuntime()
//	rt.Behave("crash", fake.Behavior{ExitAfter: time.Second, ExitCode: 37}) // by container name
package fake

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/seam"
)

// Behavior is what a container does once it was started.
type Behavior struct {
	ExitAfter  time.Duration // zero: it runs until it is stopped
	ExitCode   int32
	StopAfter  time.Duration // from the signal to its end; longer than the grace period: it is killed
	StartError error
	Exec       func(ctx context.Context, cmd []string, s seam.Streams) (int, error)
}

// Runtime is a runtime in memory.
type Runtime struct {
	mu        sync.Mutex
	sandboxes map[string]*seam.Sandbox
	timers    map[string]*time.Timer
	waiting   map[string][]chan struct{}
	behaviors map[string]Behavior
	next      int
	changes   chan string
	log       []string // what was asked for, for tests to look at
	violation error
	// Fail, if set, is asked before each operation ("RunSandbox", "StartContainer", ...).
	Fail func(operation string) error
	// Fences are when sandboxes are to be killed.
	Fences map[string]time.Duration
}

// NewRuntime makes an empty runtime.
func NewRuntime() *Runtime {
	return &Runtime{sandboxes: map[string]*seam.Sandbox{}, timers: map[string]*time.Timer{}, waiting: map[string][]chan struct{}{}, behaviors: map[string]Behavior{}, changes: make(chan string, 1024)}
}

// Behave says what containers of that name do from now on.
func (r *Runtime) Behave(name string, b Behavior) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.behaviors[name] = b
}

// Log returns what was asked for since the last call.
func (r *Runtime) Log() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.log
	r.log = nil
	return out
}

// Violation returns the first thing that must never be asked for and was.
func (r *Runtime) Violation() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.violation
}

func (r *Runtime) violate(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if r.violation == nil {
		r.violation = err
	}
	return err
}

func (r *Runtime) begin(operation, what string) error {
	r.log = append(r.log, operation+" "+what)
	if r.Fail != nil {
		return r.Fail(operation)
	}
	return nil
}

func (r *Runtime) id(prefix string) string {
	r.next++
	return fmt.Sprintf("%s%d", prefix, r.next)
}

func (r *Runtime) changed(uid types.UID) {
	select {
	case r.changes <- string(uid):
	default:
	}
}

// Changes names pods whose containers changed.
func (r *Runtime) Changes() <-chan string { return r.changes }

// List returns everything.
func (r *Runtime) List(context.Context) ([]seam.Sandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []seam.Sandbox
	for _, s := range r.sandboxes {
		c := *s
		c.Containers = slices.Clone(s.Containers)
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b seam.Sandbox) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return out, nil
}

// RunSandbox starts a sandbox.
func (r *Runtime) RunSandbox(_ context.Context, spec seam.SandboxSpec) (seam.Sandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.begin("RunSandbox", spec.Pod.Name); err != nil {
		return seam.Sandbox{}, err
	}
	for _, s := range r.sandboxes {
		if s.PodUID == spec.Pod.UID && s.Ready {
			return seam.Sandbox{}, r.violate("pod %s has two ready sandboxes", spec.Pod.Name)
		}
	}
	s := &seam.Sandbox{ID: r.id("s"), PodUID: spec.Pod.UID, Namespace: spec.Pod.Namespace, Name: spec.Pod.Name, Attempt: spec.Attempt, Ready: true, CreatedAt: time.Now(), NetNS: spec.NetNS}
	r.sandboxes[s.ID] = s
	return *s, nil
}

// FenceSandbox notes when a sandbox is to be killed.
func (r *Runtime) FenceSandbox(_ context.Context, id string, at time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.begin("FenceSandbox", id); err != nil {
		return err
	}
	if r.Fences == nil {
		r.Fences = map[string]time.Duration{}
	}
	r.Fences[id] = at
	return nil
}

// StopSandbox ends a sandbox and what runs in it.
func (r *Runtime) StopSandbox(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.begin("StopSandbox", id); err != nil {
		return err
	}
	if s := r.sandboxes[id]; s != nil {
		s.Ready = false
		for i := range s.Containers {
			r.exit(s, &s.Containers[i], 137)
		}
	}
	return nil
}

// RemoveSandbox removes a stopped sandbox.
func (r *Runtime) RemoveSandbox(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.begin("RemoveSandbox", id); err != nil {
		return err
	}
	if s := r.sandboxes[id]; s != nil && s.Ready {
		return r.violate("sandbox %s is removed while it is ready", id)
	}
	delete(r.sandboxes, id)
	return nil
}

func (r *Runtime) find(id string) (*seam.Sandbox, *seam.Container) {
	for _, s := range r.sandboxes {
		for i := range s.Containers {
			if s.Containers[i].ID == id {
				return s, &s.Containers[i]
			}
		}
	}
	return nil, nil
}

// StartContainer creates and starts a container.
func (r *Runtime) StartContainer(_ context.Context, sandbox string, spec seam.ContainerSpec) (seam.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := spec.Container.Name
	if err := r.begin("StartContainer", fmt.Sprintf("%s/%d", name, spec.Attempt)); err != nil {
		return seam.Container{}, err
	}
	s := r.sandboxes[sandbox]
	if s == nil || !s.Ready {
		return seam.Container{}, r.violate("container %s is started in sandbox %q, which is not ready", name, sandbox)
	}
	for _, other := range r.sandboxes {
		for _, c := range other.Containers {
			if other.PodUID == s.PodUID && c.Name == name && c.State == seam.Running {
				return seam.Container{}, r.violate("container %s runs twice in pod %s", name, s.Name)
			}
		}
	}
	b := r.behaviors[name]
	now := time.Now()
	c := seam.Container{
		ID: r.id("c"), Name: name, SandboxID: sandbox, Attempt: spec.Attempt, Image: spec.Container.Image, ImageID: spec.ImageID,
		SpecHash: spec.SpecHash, State: seam.Running, CreatedAt: now, StartedAt: now, LogPath: spec.LogPath, Resources: &spec.Resources,
	}
	if b.StartError != nil {
		c.State, c.Reason, c.Message, c.ExitCode, c.FinishedAt = seam.Exited, "StartError", b.StartError.Error(), 128, now
		s.Containers = append(s.Containers, c)
		return c, b.StartError
	}
	s.Containers = append(s.Containers, c)
	if b.ExitAfter > 0 {
		r.timers[c.ID] = time.AfterFunc(b.ExitAfter, func() { r.Exit(c.ID, b.ExitCode) })
	}
	return c, nil
}

// Resize notes what the containers have now.
func (r *Runtime) Resize(_ context.Context, sandbox string, pod *corev1.Pod, want map[string]corev1.ResourceRequirements) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.begin("Resize", pod.Name); err != nil {
		return err
	}
	s := r.sandboxes[sandbox]
	if s == nil {
		return fmt.Errorf("there is no sandbox %s", sandbox)
	}
	for i := range s.Containers {
		c := &s.Containers[i]
		if to, ok := want[c.ID]; ok && c.State == seam.Running {
			c.Resources = &to
		}
	}
	return nil
}

// Exit ends a container.
func (r *Runtime) Exit(id string, code int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, c := r.find(id); c != nil {
		r.exit(s, c, code)
	}
}

func (r *Runtime) exit(s *seam.Sandbox, c *seam.Container, code int32) {
	if c.State != seam.Running {
		return
	}
	c.State, c.ExitCode, c.FinishedAt = seam.Exited, code, time.Now()
	for _, done := range r.waiting[c.ID] {
		close(done)
	}
	delete(r.waiting, c.ID)
	if t := r.timers[c.ID]; t != nil {
		t.Stop()
		delete(r.timers, c.ID)
	}
	r.changed(s.PodUID)
}

// StopContainer signals a container and kills it after the grace period.
func (r *Runtime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	r.mu.Lock()
	_, c := r.find(id)
	if c == nil {
		r.mu.Unlock()
		return nil
	}
	b := r.behaviors[c.Name]
	err := r.begin("StopContainer", fmt.Sprintf("%s %v", c.Name, grace))
	running := c.State == seam.Running
	r.mu.Unlock()
	if err != nil || !running {
		return err
	}
	code := int32(143)
	if b.StopAfter > grace {
		code = 137
	}
	select {
	case <-time.After(min(b.StopAfter, grace)):
	case <-ctx.Done():
		return ctx.Err()
	}
	r.Exit(id, code)
	return nil
}

// RemoveContainer removes a container that has ended.
func (r *Runtime) RemoveContainer(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.begin("RemoveContainer", id); err != nil {
		return err
	}
	s, c := r.find(id)
	if c == nil {
		return nil
	}
	if c.State == seam.Running {
		return r.violate("container %s is removed while it runs", c.Name)
	}
	s.Containers = slices.DeleteFunc(s.Containers, func(o seam.Container) bool { return o.ID == id })
	return nil
}

// Reboot ends everything, as a pulled plug does: nobody saw how the containers ended.
func (r *Runtime) Reboot() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sandboxes {
		s.Ready = false
		for i := range s.Containers {
			if c := &s.Containers[i]; c.State == seam.Running {
				c.State = seam.Unknown
				if t := r.timers[c.ID]; t != nil {
					t.Stop()
				}
			}
		}
	}
}

// Running names the containers of a pod that run.
func (r *Runtime) Running(uid types.UID) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, s := range r.sandboxes {
		for _, c := range s.Containers {
			if s.PodUID == uid && c.State == seam.Running {
				out = append(out, c.Name)
			}
		}
	}
	slices.Sort(out)
	return out
}

// Exited is closed when a container has ended.
func (r *Runtime) Exited(id string) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	done := make(chan struct{})
	if _, c := r.find(id); c == nil || c.State != seam.Running {
		close(done)
		return done
	}
	r.waiting[id] = append(r.waiting[id], done)
	return done
}

// Exec runs the behavior's command.
func (r *Runtime) Exec(ctx context.Context, id string, cmd []string, s seam.Streams) (int, error) {
	r.mu.Lock()
	_, c := r.find(id)
	var b Behavior
	running := false
	if c != nil {
		b, running = r.behaviors[c.Name], c.State == seam.Running
	}
	r.mu.Unlock()
	if !running {
		return 0, fmt.Errorf("container %s is not running", id)
	}
	if b.Exec != nil {
		return b.Exec(ctx, cmd, s)
	}
	return 0, nil
}

// Attach copies what is written to what is read.
func (r *Runtime) Attach(_ context.Context, _ string, s seam.Streams) error {
	if s.Stdin == nil || s.Stdout == nil {
		return nil
	}
	_, err := io.Copy(s.Stdout, s.Stdin)
	return err
}

// Stats knows nothing.
func (r *Runtime) Stats(context.Context) ([]seam.PodStats, error) { return nil, nil }

var _ seam.Runtime = (*Runtime)(nil)

// Images are images in memory: all are present unless they are told to be absent.
type Images struct {
	mu      sync.Mutex
	Absent  map[string]bool   // must be pulled
	Errors  map[string]error  // what a pull ends with
	Private map[string]string // the name of the Secret without which it is not shown
	Pulls   int
	Delay   time.Duration
	Hangs   string // what is pulled from this registry never comes
	Changed func() // called when a pull has ended, before it returns
}

// Resolve finds an image that is present.
func (i *Images) Resolve(_ context.Context, ref string) (seam.Image, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return seam.Image{ID: "sha256:" + ref, Names: []string{ref}}, !i.Absent[ref]
}

// ResolveFor finds an image that is present, if the pod has what it is kept for.
func (i *Images) ResolveFor(ctx context.Context, ref string, secrets []*corev1.Secret) (seam.Image, bool) {
	img, ok := i.Resolve(ctx, ref)
	i.mu.Lock()
	defer i.mu.Unlock()
	owner, private := i.Private[ref]
	return img, ok && (!private || slices.ContainsFunc(secrets, func(s *corev1.Secret) bool { return s.Name == owner }))
}

// Misnamed refuses capital letters.
func (i *Images) Misnamed(ref string) error {
	if ref != strings.ToLower(ref) {
		return fmt.Errorf("couldn't parse image name %q", ref)
	}
	return nil
}

// Unfit knows of no image that is for other boards.
func (i *Images) Unfit(string) error { return nil }

// Pull makes an image present.
func (i *Images) Pull(ctx context.Context, ref string, _ []*corev1.Secret) (seam.Image, error) {
	delay := i.Delay
	if i.Hangs != "" && strings.HasPrefix(ref, i.Hangs+"/") {
		delay = math.MaxInt64
	}
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return seam.Image{}, ctx.Err()
	}
	if i.Changed != nil {
		defer i.Changed()
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.Pulls++
	if err := i.Errors[ref]; err != nil {
		return seam.Image{}, err
	}
	delete(i.Absent, ref)
	return seam.Image{ID: "sha256:" + ref, Names: []string{ref}}, nil
}

// SetError makes pulls of a reference fail, or succeed again with nil.
func (i *Images) SetError(ref string, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.Errors == nil {
		i.Errors, i.Absent = map[string]error{}, map[string]bool{}
	}
	i.Errors[ref], i.Absent[ref] = err, err != nil
}

// List returns nothing.
func (i *Images) List(context.Context) ([]seam.Image, error) { return nil, nil }

// Remove does nothing.
func (i *Images) Remove(context.Context, string) error { return nil }
