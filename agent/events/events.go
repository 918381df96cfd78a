// Package events records what happened to the pods of this node, as v1 Events.
//
// Invariant: an event that happens again is one object whose count grows, and an object about
// which too much happens (a probe that fails every second) costs a bounded number of events: 25 at
// once, then one every five minutes. At most 1,024 are remembered for counting; beyond that the
// one that was seen longest ago is forgotten.
//
//	r := events.New("pi", put, time.Now)
//	r.Event(events.Container(pod, "web"), corev1.EventTypeNormal, events.Started, "Container started")
package events

import (
	"fmt"
	"hash/fnv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/podspec"
)

// Reasons, word for word the kubelet's.
const (
	Created                = "Created"
	Started                = "Started"
	Failed                 = "Failed"
	Killing                = "Killing"
	BackOff                = "BackOff"
	Pulling                = "Pulling"
	Pulled                 = "Pulled"
	ErrImageNeverPull      = "ErrImageNeverPull"
	InspectFailed          = "InspectFailed"
	FailedMount            = "FailedMount"
	FailedCreatePodSandBox = "FailedCreatePodSandBox"
	SandboxChanged         = "SandboxChanged"
	Unhealthy              = "Unhealthy"
	ProbeWarning           = "ProbeWarning"
	FailedPostStartHook    = "FailedPostStartHook"
	FailedPreStopHook      = "FailedPreStopHook"
	FailedKillPod          = "FailedKillPod"
	DNSConfigForming       = "DNSConfigForming"
	FailedImagePullSecret  = "FailedToRetrieveImagePullSecret"
	LifecycleHTTPFallback  = "LifecycleHTTPFallback"
	NodeStarting           = "Starting"
	ResizeStarted          = "ResizeStarted"
	ResizeCompleted        = "ResizeCompleted"
	ResizeDeferred         = "ResizeDeferred"
	ResizeError            = "ResizeError"
	Evicted                = "Evicted"
	EvictionThresholdMet   = "EvictionThresholdMet"
	FreeDiskSpaceFailed    = "FreeDiskSpaceFailed"
	ImageGCFailed          = "ImageGCFailed"

	FailedPrepareDynamicResources = "FailedPrepareDynamicResources"
)

// HealthcheckFailed is kube-proxy's.
const HealthcheckFailed = "FailedToStartServiceHealthcheck"

// Reasons of our own, for what no kubelet tells.
const (
	NFSServerAway        = "NFSServerAway" // while a pod uses it
	NFSServerBack        = "NFSServerBack"
	ImportedImageRemoved = "ImportedImageRemoved"
	AddressAnnounced     = "AddressAnnounced" // of a load balancer
	IngressNotServed     = "IngressNotServed"
)

const (
	remembered = 1024
	burst      = 25
	refill     = 5 * time.Minute
	longest    = 1024 // bytes of a message that the API takes
)

type key struct {
	uid                    types.UID
	field                  string
	kind, reason, message  string
	apiVersion, objectKind string
}

type memory struct {
	event corev1.Event
	seen  time.Time
}

type allowance struct {
	tokens float64
	at     time.Time
}

// Recorder records events.
type Recorder struct {
	node string
	put  func(*corev1.Event)
	now  func() time.Time

	mu    sync.Mutex
	known map[key]*memory
	spent map[types.UID]*allowance
}

// New makes a recorder that hands every new or changed event to put.
func New(node string, put func(*corev1.Event), now func() time.Time) *Recorder {
	return &Recorder{node: node, put: put, now: now, known: map[key]*memory{}, spent: map[types.UID]*allowance{}}
}

// Pod refers to a pod.
func Pod(pod *corev1.Pod) corev1.ObjectReference {
	return corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion}
}

// Container refers to a container of a pod, or for the image of a volume to the pod.
func Container(pod *corev1.Pod, name string) corev1.ObjectReference {
	ref := Pod(pod)
	c, _ := podspec.Fetched(pod, name)
	switch c.Kind {
	case podspec.Volume:
	case podspec.App:
		ref.FieldPath = "spec.containers{" + name + "}"
	case podspec.Ephemeral:
		ref.FieldPath = "spec.ephemeralContainers{" + name + "}"
	default:
		ref.FieldPath = "spec.initContainers{" + name + "}"
	}
	return ref
}

// Node refers to a node.
func Node(name string) corev1.ObjectReference {
	return corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: name, UID: types.UID(name)}
}

// Event records one.
func (r *Recorder) Event(ref corev1.ObjectReference, kind, reason, message string) {
	if len(message) > longest {
		message = strings.ToValidUTF8(message[:longest-3], "") + "..."
	}
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.allow(ref.UID, now) {
		return
	}
	k := key{ref.UID, ref.FieldPath, kind, reason, message, ref.APIVersion, ref.Kind}
	m := r.known[k]
	if m == nil {
		r.forget()
		m = &memory{event: r.fresh(ref, kind, reason, message, now)}
		r.known[k] = m
	}
	m.seen = now
	m.event.Count++
	m.event.LastTimestamp = metav1.NewTime(now).Rfc3339Copy()
	r.put(m.event.DeepCopy())
}

// Eventf records one with a formatted message.
func (r *Recorder) Eventf(ref corev1.ObjectReference, kind, reason, format string, args ...any) {
	r.Event(ref, kind, reason, fmt.Sprintf(format, args...))
}

func (r *Recorder) fresh(ref corev1.ObjectReference, kind, reason, message string, now time.Time) corev1.Event {
	namespace := ref.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	h := fnv.New64a()
	fmt.Fprint(h, ref.UID, 0, ref.FieldPath, 0, kind, 0, reason, 0, message, 0, now.UnixNano())
	at := metav1.NewTime(now).Rfc3339Copy()
	return corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s.%016x", ref.Name, h.Sum64())},
		InvolvedObject: ref, Type: kind, Reason: reason, Message: message,
		Source:         corev1.EventSource{Component: "kubelet", Host: r.node},
		FirstTimestamp: at, ReportingController: "kubelet", ReportingInstance: r.node,
	}
}

// allow takes one from the object's allowance.
func (r *Recorder) allow(uid types.UID, now time.Time) bool {
	a := r.spent[uid]
	if a == nil {
		if len(r.spent) >= remembered {
			for u, other := range r.spent {
				if now.Sub(other.at) > refill {
					delete(r.spent, u)
				}
			}
		}
		a = &allowance{tokens: burst, at: now}
		r.spent[uid] = a
	}
	a.tokens = min(burst, a.tokens+now.Sub(a.at).Seconds()/refill.Seconds())
	a.at = now
	if a.tokens < 1 {
		return false
	}
	a.tokens--
	return true
}

func (r *Recorder) forget() {
	if len(r.known) < remembered {
		return
	}
	var oldest key
	var at time.Time
	for k, m := range r.known {
		if at.IsZero() || m.seen.Before(at) {
			oldest, at = k, m.seen
		}
	}
	delete(r.known, oldest)
}

// Forget drops what is remembered of an object that is gone.
func (r *Recorder) Forget(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.spent, uid)
	for k := range r.known {
		if k.uid == uid {
			delete(r.known, k)
		}
	}
}
