// Package seam holds what the agent asks of the parts below it: small interfaces of the runtime,
// the mesh, the volumes and the link, and the values that cross them.
//
// Invariant: nothing above this package names a concrete runtime, mesh or storage, so that every
// part of the agent runs in a test against a fake, and so that those three never know the agent.
// The adapters to the real ones are in package agent.
//
//	var rt seam.Runtime = fake.NewRuntime()
//	sandboxes, err := rt.List(ctx)
//
// Tests: agent/worker and agent/agent_test.go, against agent/fake; test/e2e, against the real parts
package seam

import (
	"context"
	"io"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// State is the state of a container as the runtime sees it.
type State string

// The states of a container. Unknown is what is left of a container whose end nobody saw, for
// example after a reboot.
const (
	Created State = "created"
	Running State = "running"
	Exited  State = "exited"
	Unknown State = "unknown"
)

// Container is an observed container.
type Container struct {
	ID, Name   string
	SandboxID  string
	Attempt    uint32
	Image      string
	ImageID    string
	SpecHash   string
	State      State
	Pid        int
	CreatedAt  time.Time
	StartedAt  time.Time
	FinishedAt time.Time
	ExitCode   int32
	OOMKilled  bool
	Reason     string
	Message    string
	LogPath    string
	User       *corev1.LinuxContainerUser
	// Resources are what its cgroup gives; nil if that is not known. They are shared: nobody changes them.
	Resources *corev1.ResourceRequirements
}

// NewestFirst is the order of containers in which what holds now comes first.
func NewestFirst(a, b Container) int {
	if c := b.CreatedAt.Compare(a.CreatedAt); c != 0 {
		return c
	}
	return int(b.Attempt) - int(a.Attempt)
}

// Sandbox is an observed sandbox with the containers in it.
type Sandbox struct {
	ID         string
	PodUID     types.UID
	Namespace  string
	Name       string
	Attempt    uint32
	Ready      bool
	CreatedAt  time.Time
	NetNS      string
	Resources  *corev1.ResourceRequirements // as a container's
	Containers []Container
}

// SandboxSpec is what the runtime needs to start a sandbox.
type SandboxSpec struct {
	Pod        *corev1.Pod
	Attempt    uint32
	Hostname   string
	NetNS      string // path; empty: the host's network
	ResolvConf string
	HostsFile  string
	LogDir     string
}

// Mount is one bind mount of a container.
type Mount struct {
	Source, Target    string
	ReadOnly          bool
	RecursiveReadOnly bool
	NoExec            bool
	Propagation       corev1.MountPropagationMode
}

// ContainerSpec is what the runtime needs to start a container.
type ContainerSpec struct {
	Pod           *corev1.Pod
	Container     *corev1.Container
	Resources     corev1.ResourceRequirements // of its cgroup
	Attempt       uint32
	ImageID       string
	Env           []string
	Command, Args []string
	Mounts        []Mount
	SpecHash      string
	LogPath       string
	// Target names the container whose processes an ephemeral container sees; empty: none.
	Target string
}

// ConfigError says that what the pod asks for cannot be had on this node: nothing was started.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

// UnreachableError says that no registry of an image answered.
type UnreachableError struct{ Err error }

func (e *UnreachableError) Error() string { return e.Err.Error() }
func (e *UnreachableError) Unwrap() error { return e.Err }

// TerminalSize is a size of a terminal in characters.
type TerminalSize struct{ Width, Height uint16 }

// Streams are the ends of an exec or attach session.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
	Resize         <-chan TerminalSize
}

// ContainerStats is the use of resources of one container.
type ContainerStats struct {
	Name             string
	ID               string
	At               time.Time
	StartedAt        time.Time
	CPUNanos         uint64 // used since the start
	MemoryUsage      uint64
	MemoryWorkingSet uint64
	MemoryRSS        uint64
	Pids             uint64
}

// PodStats is the use of resources of one pod.
type PodStats struct {
	PodUID           types.UID
	Namespace        string
	Name             string
	At               time.Time
	CPUNanos         uint64
	MemoryWorkingSet uint64
	Pids             uint64
	Containers       []ContainerStats
}

// Runtime runs sandboxes and containers.
type Runtime interface {
	List(ctx context.Context) ([]Sandbox, error)
	RunSandbox(ctx context.Context, spec SandboxSpec) (Sandbox, error)
	// FenceSandbox has the sandbox be killed at a moment of the clock that Boottime reads, whether the agent lives or not.
	FenceSandbox(ctx context.Context, id string, at time.Duration) error
	StopSandbox(ctx context.Context, id string) error
	RemoveSandbox(ctx context.Context, id string) error
	StartContainer(ctx context.Context, sandboxID string, spec ContainerSpec) (Container, error)
	// Resize gives a running pod what its specification says now, and its containers, by their IDs, what want says.
	Resize(ctx context.Context, sandboxID string, pod *corev1.Pod, want map[string]corev1.ResourceRequirements) error
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	RemoveContainer(ctx context.Context, id string) error
	// Exited is closed when a container has ended; it is closed already if there is none.
	Exited(id string) <-chan struct{}
	// Changes names the pods whose containers started or ended since they were last observed.
	Changes() <-chan string
	Exec(ctx context.Context, id string, cmd []string, s Streams) (int, error)
	Attach(ctx context.Context, id string, s Streams) error
	Stats(ctx context.Context) ([]PodStats, error)
}

// Image is an image that is present.
type Image struct {
	ID       string   // what a container is started from
	Names    []string // references by digest and by tag
	Platform string
	Size     int64
	Used     time.Time // by a pod, as far as anybody remembers, or else when it was brought
	Imported bool      // by hand: no registry is known to have it
}

// Images are the images on this node.
type Images interface {
	Resolve(ctx context.Context, ref string) (Image, bool)
	// ResolveFor is Resolve for a pod that has these pull secrets: an image that was had only with others' is not there for it.
	ResolveFor(ctx context.Context, ref string, secrets []*corev1.Secret) (Image, bool)
	// Misnamed says why a reference names no image.
	Misnamed(ref string) error
	// Unfit says why this node does not run an image, if that is known.
	Unfit(ref string) error
	// Pull brings an image; the secrets hold credentials for registries. An UnreachableError leaves open whether there is a newer one.
	Pull(ctx context.Context, ref string, secrets []*corev1.Secret) (Image, error)
	List(ctx context.Context) ([]Image, error)
	Remove(ctx context.Context, ref string) error
}

// Attachment is a pod's place in the network.
type Attachment struct {
	NetNS string
	IP    netip.Addr
}

// Network attaches pods to the cluster's network.
type Network interface {
	Attach(ctx context.Context, pod *corev1.Pod) (Attachment, error)
	Detach(ctx context.Context, uid types.UID) error
	Sweep(ctx context.Context, keep []types.UID) error
}

// Volumes mounts what pods name.
type Volumes interface {
	// Mount makes all volumes of the pod and returns their host paths by name. It is idempotent.
	Mount(ctx context.Context, pod *corev1.Pod) (map[string]string, error)
	Refresh(ctx context.Context, pod *corev1.Pod) error
	// Touch does something with what a volume's path leads to, apart from the caller if a file server may hang it. It is not done,
	// or its context is done, when it gives up: what the caller reads of it then is not to be trusted.
	Touch(ctx context.Context, path string, do func(context.Context) error) error
	// GiveUp ends what processes of a pod that is being killed wait for: file servers that do not answer. It says which.
	GiveUp(ctx context.Context, uid types.UID) (servers []string, err error)
	Unmount(ctx context.Context, uid types.UID) error
	Sweep(ctx context.Context, keep []types.UID) error
}

// Objects are the objects that pods of this node refer to, as last sent by the server.
type Objects interface {
	ConfigMap(namespace, name string) (*corev1.ConfigMap, bool)
	Secret(namespace, name string) (*corev1.Secret, bool)
	// RuntimeHandler is the handler that a RuntimeClass names.
	RuntimeHandler(class string) (string, bool)
	// Services of all namespaces; synced is false until the shared set was loaded once.
	Services() (services []*corev1.Service, synced bool)
	Node() *corev1.Node
}
