// Package engine runs pods: it is what the agent sees of the runtime.
//
// The invariant: what runs, runs without the engine. A sandbox's shim is the parent of its containers; records and exit
// codes are on the disk. Open therefore finds everything again, whether the process before it was stopped, killed or
// replaced by a newer one, and after a reboot reports what ran before as ended. What is nobody's it removes.
//
//	e, err := engine.Open(ctx, engine.Config{Dir: dir, Runc: "bin/runc", Shim: "bin/bramble-shim", Pause: "bin/bramble-pause", CgroupParent: "/bramble-1a2b3c"})
//	sandbox, err := e.RunSandbox(ctx, engine.SandboxSpec{Pod: pod, NetNS: path})
//	c, err := e.StartContainer(ctx, sandbox.ID, engine.ContainerSpec{Pod: pod, Container: &pod.Spec.Containers[0], LogPath: log})
package engine

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/runtime/cgroup"
	"bramble.dev/runtime/container"
	"bramble.dev/runtime/image"
	"bramble.dev/runtime/sandbox"
	"bramble.dev/runtime/shim"
	"bramble.dev/runtime/snapshot"
)

// Config says where things are.
type Config struct {
	Dir                string // everything that must survive a reboot
	RunDir             string // everything that need not; "" is /run/bramble-<hash of Dir>
	Runc, Shim, Pause  string // executables
	CgroupParent       string // as "/bramble-1a2b3c"
	Mirrors            map[string][]string
	InsecureRegistries []string
	SeccompDir         string // of Localhost profiles
	LogSize            int64  // bytes at which a container's log is rotated; 0 is 10 MiB
	LogFiles           int    // kept in all; 0 is 5
	Logger             *slog.Logger
}

// State is a container's.
type State string

// The states of a container, as the CRI has them.
const (
	Created State = "created"
	Running State = "running"
	Exited  State = "exited"
	Unknown State = "unknown"
)

// Sandbox is a pod's sandbox as it is observed.
type Sandbox struct {
	ID              string
	PodUID          types.UID
	Namespace, Name string
	Attempt         uint32
	Ready           bool
	CreatedAt       time.Time
	NetNS           string
	Pid             int                          // of the pause process; 0 when it is not ready
	Resources       *corev1.ResourceRequirements // that its cgroup gives; nil while that is not known
	Containers      []Container
}

// Container is a container as it is observed.
type Container struct {
	ID, Name, SandboxID              string
	Attempt                          uint32
	Image, ImageID, SpecHash         string
	State                            State
	Pid                              int
	CreatedAt, StartedAt, FinishedAt time.Time
	ExitCode                         int32
	OOMKilled                        bool
	Reason, Message                  string
	LogPath                          string
	User                             *container.User              // nil while that is not known
	Resources                        *corev1.ResourceRequirements // that its cgroup gives; nil while that is not known
}

// Engine runs the pods of a node.
type Engine struct {
	cfg    Config
	log    *slog.Logger
	cgroup *cgroup.Tree
	snap   *snapshot.Store
	images *image.Store
	dir    sandbox.Dir
	host   container.Host
	bootID string

	stop    context.CancelFunc
	workers sync.WaitGroup
	changes *changes

	mu         sync.Mutex
	pods       map[string]*pod  // by sandbox ID
	containers map[string]*task // by container ID
	closed     bool
}

// pod is a sandbox. Its fields are guarded by the engine's mutex, but for those that never change.
type pod struct {
	rec     sandbox.Record
	short   string // folder in RunDir
	client  shim.Client
	pause   int // 0: not ready
	stopped bool
	watched chan struct{} // closed when nobody watches the shim any more
	close   func()        // ends the watch
	actual  *corev1.ResourceRequirements
}

// task is a container.
type task struct {
	pod     *pod
	rec     sandbox.Container
	state   State
	pid     int
	exit    *sandbox.Exit
	exited  chan struct{} // closed when it has ended
	release sync.Mutex    // giving back what it holds
	actual  *corev1.ResourceRequirements
}

// Open opens the engine and finds again what runs.
func Open(ctx context.Context, c Config) (*Engine, error) {
	e := &Engine{cfg: c, log: c.Logger, pods: map[string]*pod{}, containers: map[string]*task{}, changes: newChanges()}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if err := e.open(ctx); err != nil {
		return nil, fmt.Errorf("open the container runtime: %w", err)
	}
	return e, nil
}

func (e *Engine) open(ctx context.Context) error {
	var err error
	for _, p := range []*string{&e.cfg.Dir, &e.cfg.Runc, &e.cfg.Shim, &e.cfg.Pause} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	for _, p := range []string{e.cfg.Runc, e.cfg.Shim, e.cfg.Pause} {
		if _, err := os.Stat(p); err != nil {
			return fmt.Errorf("a program is missing; build it with scripts/build: %w", err)
		}
	}
	if e.cfg.RunDir == "" {
		sum := sha256.Sum256([]byte(e.cfg.Dir))
		e.cfg.RunDir = "/run/bramble-" + hex.EncodeToString(sum[:])[:6]
	}
	if err := os.MkdirAll(e.cfg.RunDir, 0o700); err != nil {
		return err
	}
	if e.bootID, err = readBootID(); err != nil {
		return err
	}
	if e.cgroup, err = cgroup.Open(e.cfg.CgroupParent); err != nil {
		return err
	}
	e.host = container.Detect(e.cgroup)
	e.host.SeccompDir = e.cfg.SeccompDir
	if e.dir, err = sandbox.Open(filepath.Join(e.cfg.Dir, "pods")); err != nil {
		return err
	}
	if e.snap, err = snapshot.Open(e.cfg.Dir); err != nil {
		return err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	e.stop = stop
	e.workers.Go(func() { e.changes.run(run) })
	if err := e.adopt(ctx); err != nil {
		e.Close()
		return err
	}
	// After the containers, because their layers must stay.
	e.images, err = image.Open(e.cfg.Dir, e.snap, image.Options{
		Mirrors: e.cfg.Mirrors, Insecure: e.cfg.InsecureRegistries, Logger: e.log, InUse: e.layersInUse,
	})
	if err != nil {
		e.Close()
		return err
	}
	e.workers.Go(func() { e.verifyOnce(run) })
	return nil
}

func readBootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// verifyOnce looks over the images' files once a boot, beside the work: a plug may have been pulled.
func (e *Engine) verifyOnce(ctx context.Context) {
	mark := filepath.Join(e.cfg.Dir, "verified")
	if b, err := os.ReadFile(mark); err == nil && string(b) == e.bootID {
		return
	}
	if err := e.images.Verify(ctx); err != nil {
		e.log.Warn("could not look over the images", "err", err)
		return
	}
	if err := os.WriteFile(mark, []byte(e.bootID), 0o600); err != nil {
		e.log.Warn("could not note that the images are whole", "err", err)
	}
}

// Close lets go of everything; what runs goes on.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	for _, p := range e.pods {
		if p.close != nil {
			p.close()
		}
	}
	e.mu.Unlock()
	e.stop()
	e.workers.Wait()
	return nil
}

// Teardown removes every sandbox and whatever else the engine has put on the machine, but for images.
func (e *Engine) Teardown(ctx context.Context) error {
	list, err := e.List(ctx)
	failed := []error{err}
	for _, s := range list {
		failed = append(failed, e.RemoveSandbox(ctx, s.ID))
	}
	failed = append(failed, e.Close(), e.cgroup.Remove(ctx, ""), os.RemoveAll(e.cfg.RunDir))
	return errors.Join(failed...)
}

// Written is the folder with what a container has written into its root file system. It is gone when the container has ended.
func (e *Engine) Written(id string) string { return e.snap.Written(id) }

// Images are the node's images.
func (e *Engine) Images() *image.Store { return e.images }

// Changes tells the UIDs of pods of which a container or the sandbox has changed. A pod that changes several times
// before it is read is told once, so that the queue is never longer than there are pods.
func (e *Engine) Changes() <-chan string { return e.changes.out }

// RemoveImage removes an image by name or ID, unless a container runs it: what is started again would find none.
func (e *Engine) RemoveImage(ctx context.Context, ref string) error {
	if img, ok := e.images.Resolve(ref); ok {
		if user := e.runs(img.ID); user != "" {
			return fmt.Errorf("remove image %s: pod %s runs it: delete the pod, or give it another image, first", ref, user)
		}
		if e.shows(img.Layers) {
			return fmt.Errorf("remove image %s: a volume of a pod shows it: delete the pod first", ref)
		}
	}
	return e.images.Remove(ctx, ref)
}

// ShowImage mounts the files of an image that is here at a folder, to be read.
func (e *Engine) ShowImage(ref, target string) error {
	img, ok := e.images.Resolve(ref)
	if !ok {
		return fmt.Errorf("image %q is not here", ref)
	}
	return e.snap.Show(target, img.Layers)
}

// shows says whether just these layers, the lowest first, are shown as an image.
func (e *Engine) shows(layers []string) bool {
	all, err := snapshot.Shown()
	if err != nil {
		e.log.Warn("images that volumes show cannot be told from others", "err", err)
	}
	down := slices.Clone(layers)
	slices.Reverse(down)
	return slices.ContainsFunc(all, func(l []string) bool { return slices.Equal(l, down) })
}

// runs names a pod that runs an image; "": none.
func (e *Engine) runs(imageID string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.containers {
		if t.rec.ImageID == imageID && t.state == Running {
			return t.pod.rec.Namespace + "/" + t.pod.rec.Name
		}
	}
	return ""
}

// List returns what is observed. It asks nobody: the shims tell what happens.
func (e *Engine) List(context.Context) ([]Sandbox, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	byPod := map[*pod][]Container{}
	for _, t := range e.containers {
		byPod[t.pod] = append(byPod[t.pod], t.observe())
	}
	list := make([]Sandbox, 0, len(e.pods))
	for _, p := range e.pods {
		s := p.observe()
		s.Containers = byPod[p]
		sort.Slice(s.Containers, func(i, j int) bool { return s.Containers[i].CreatedAt.Before(s.Containers[j].CreatedAt) })
		list = append(list, s)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].CreatedAt.Before(list[j].CreatedAt) })
	return list, nil
}

func (p *pod) observe() Sandbox {
	return Sandbox{
		ID: p.rec.ID, PodUID: p.rec.UID, Namespace: p.rec.Namespace, Name: p.rec.Name, Attempt: p.rec.Attempt,
		Ready: p.pause > 0 && !p.stopped, CreatedAt: p.rec.CreatedAt, NetNS: p.rec.NetNS, Pid: p.pause, Resources: p.actual,
	}
}

func (t *task) observe() Container {
	c := Container{
		ID: t.rec.ID, Name: t.rec.Name, SandboxID: t.pod.rec.ID, Attempt: t.rec.Attempt, Image: t.rec.Image, ImageID: t.rec.ImageID,
		SpecHash: t.rec.SpecHash, State: t.state, Pid: t.pid, CreatedAt: t.rec.CreatedAt, StartedAt: t.rec.StartedAt, LogPath: t.rec.LogPath,
		User: t.rec.User, Resources: t.actual,
	}
	if x := t.exit; x != nil {
		c.Pid = 0
		c.FinishedAt, c.ExitCode, c.OOMKilled, c.Reason, c.Message = x.FinishedAt, x.Code, x.OOM, x.Reason, x.Message
		if c.StartedAt.IsZero() {
			c.StartedAt = x.StartedAt
		}
	}
	return c
}

// NotFoundError says that there is no such sandbox or container.
type NotFoundError struct{ Kind, ID string }

func (n *NotFoundError) Error() string { return fmt.Sprintf("%s %s: not found", n.Kind, n.ID) }

func (e *Engine) pod(id string) (*pod, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.pods[id]
	if p == nil {
		return nil, &NotFoundError{"sandbox", id}
	}
	return p, nil
}

func (e *Engine) task(id string) (*task, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.containers[id]
	if t == nil {
		return nil, &NotFoundError{"container", id}
	}
	return t, nil
}

func (e *Engine) tasksOf(p *pod) []*task {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []*task
	for _, t := range e.containers {
		if t.pod == p {
			list = append(list, t)
		}
	}
	return list
}

func (e *Engine) layersInUse() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []string
	for _, t := range e.containers {
		list = append(list, t.rec.Layers...)
	}
	shown, err := snapshot.Shown()
	if err != nil {
		e.log.Warn("images that volumes show cannot be told from others", "err", err)
	}
	return append(list, slices.Concat(shown...)...)
}

func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// short is the name of a sandbox's or container's folder in RunDir: addresses of sockets have room for 107 bytes.
func short(id string) string { return id[:min(12, len(id))] }

func (e *Engine) run(p *pod) string       { return filepath.Join(e.cfg.RunDir, p.short) }
func (e *Engine) bundle(t *task) string   { return filepath.Join(e.run(t.pod), short(t.rec.ID)) }
func (e *Engine) runcRoot() string        { return filepath.Join(e.cfg.RunDir, "runc") }
func (e *Engine) cgroupOf(t *task) string { return filepath.Join(t.pod.rec.Cgroup, t.rec.ID) }
func (e *Engine) terminationFile(t *task) string {
	return filepath.Join(e.dir.Container(t.pod.rec.ID, t.rec.ID), "termination")
}
