package worker

import (
	"context"
	"log/slog"
	"path/filepath"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/events"
	"bramble.dev/agent/fence"
	"bramble.dev/agent/probe"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/state"
	"bramble.dev/agent/status"
)

// Store keeps the records of pods.
type Store interface {
	Load(bucket string) (map[string][]byte, error)
	Queue(bucket, key string, value []byte)
	Write(ctx context.Context, bucket string, changes []state.Change) error
}

// Prober probes containers.
type Prober interface {
	Set(pod *corev1.Pod, targets []probe.Target)
	Results(uid types.UID) map[string]status.Probes
	Remove(uid types.UID)
}

// Hooks run what a container wants to be run at its start and its end.
type Hooks interface {
	Run(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id, podIP string, h *corev1.LifecycleHandler) error
}

// Facts are what pods see of the node.
type Facts struct {
	HostIPs       []string
	ClusterDNS    []string
	ClusterDomain string
	Allocatable   corev1.ResourceList
}

// Report takes a pod's new status; finished when nothing of the pod is left but its record.
type Report func(pod *corev1.Pod, s corev1.PodStatus, finished bool)

// Config is what the workers work with.
type Config struct {
	Runtime seam.Runtime
	Images  seam.Images
	Network seam.Network
	Volumes seam.Volumes
	Objects seam.Objects
	Prober  Prober
	Hooks   Hooks
	Events  *events.Recorder
	Store   Store
	Report  Report
	Retract func(pod *corev1.Pod) // nothing is known of the pod any more
	Facts   func() Facts
	Fence   *fence.Fence // nil: no pod has one
	// Admit says whether the node takes a pod, given those that it has; nil: all of them.
	Admit  func(pod *corev1.Pod, others []*corev1.Pod) *status.Waiting
	Dir    string // the agent's
	Logger *slog.Logger
}

func (c *Config) podDir(uid types.UID) string { return filepath.Join(c.Dir, "pods", string(uid)) }

// maxFileName is the longest name that file systems take, in bytes.
const maxFileName = 255

// LogDir is where the logs of a pod lie. The longest names are cut: a pod's alone may have 253 bytes, and its UID tells it apart.
// (With the kubelet such a pod never starts.)
func LogDir(dir, namespace, name string, uid types.UID) string {
	who, end := namespace+"_"+name, "_"+string(uid)
	return filepath.Join(dir, "logs", "pods", who[:min(len(who), maxFileName-len(end))]+end)
}

// LogPath is the log of one attempt of a container.
func LogPath(dir string, pod *corev1.Pod, container string, attempt uint32) string {
	return filepath.Join(LogDir(dir, pod.Namespace, pod.Name, pod.UID), container, strconv.Itoa(int(attempt))+".log")
}
