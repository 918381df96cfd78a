// Package worker runs the pods of this node, each with a worker of its own.
//
// A worker observes the runtime, asks Plan for one action and the next time to look, applies the
// action, records what came of it, and starts again until there is nothing to do. Plan is a pure
// function: it sees neither clock nor runtime, so that every decision of the node can be written
// down in a table.
//
// Invariants: at most one container of a name runs in a pod; once a pod ends, nothing of it is
// started again, whatever is sent afterwards (the mailbox keeps the newest version of a pod, but an
// end is never overwritten); what must be remembered is on the disk before anything is removed;
// after a restart of the agent, what runs is adopted as it is.
//
//	m, err := worker.New(worker.Config{Runtime: rt, ...})
//	m.Set(pods) // all pods that this node should run; call it again with every change
//	err = m.Run(ctx)
package worker

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/fence"
	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/status"
)

// Desired is what the server wants of one pod.
type Desired struct {
	Pod *corev1.Pod
	// Gone: the server no longer has the pod. It is ended, and then forgotten.
	Gone bool
}

// Ending says that the pod is to be ended.
func (d Desired) Ending() bool { return d.Gone || d.Pod.DeletionTimestamp != nil }

// Observed is what there is of one pod.
type Observed struct {
	Sandboxes []seam.Sandbox // newest first
	PodIPs    []string
	Since     time.Time                // the pod's start, on a clock that nobody sets; zero: its status says
	Mounted   bool                     // its volumes are there
	Phase     corev1.PodPhase          // what the containers lead to, see status.Decided
	Probes    map[string]status.Probes // by container ID
	Busy      map[string]Work          // by container ID, or imageWork(name): what is going on
	Guard     fence.Verdict
	Memory    Memory
}

// Work is something that takes its time and goes on beside the worker, at most one per container.
type Work int

// The kinds of work.
const (
	PostStart Work = iota + 1
	PreStop
	Stopping
	Pulling
)

func imageWork(container string) string { return "image/" + container }

// Memory is what a worker remembers of its pod. It survives a restart of the agent.
type Memory struct {
	Pod     *corev1.Pod      `json:"-"` // the last version seen, kept apart
	Status  corev1.PodStatus `json:"-"` // the last one generated, kept apart
	Evicted *status.Waiting  `json:"evicted,omitempty"`
	// Rejected: the node did not take the pod in. Evicted says why.
	Rejected bool `json:"rejected,omitempty"`
	// Hurried: the pod was evicted because the board is short of something, which cannot wait.
	Hurried    bool                 `json:"hurried,omitempty"`
	Disruption *corev1.PodCondition `json:"disruption,omitempty"` // that says so
	Finished   bool                 `json:"finished,omitempty"`   // nothing is left but the record
	Containers map[string]Past      `json:"containers,omitempty"`
	Sandbox    Retry                `json:"sandbox,omitzero"`
	Volumes    Retry                `json:"volumes,omitzero"`
	End        Retry                `json:"end,omitzero"`
	Resize     Resize               `json:"resize,omitzero"`
}

// Resize is how far a change of the pod's resources has come.
type Resize struct {
	Allocated podspec.Allocation `json:"allocated,omitzero"` // what the node has given the pod
	Pending   *status.Resize     `json:"pending,omitempty"`  // asked for, and not given
	Running   *status.Resize     `json:"running,omitempty"`  // given, and perhaps not in all cgroups yet
	Written   bool               `json:"written,omitempty"`  // into the cgroups of what ran
	Retry     Retry              `json:"retry,omitzero"`
}

// Past is what is remembered of a container, over all its attempts.
type Past struct {
	// Trial is what was tried (podspec.Trial): what failed with it holds nothing else back.
	Trial     string          `json:"trial,omitempty"`
	Attempt   uint32          `json:"attempt,omitempty"` // of the next start
	BackOff   time.Duration   `json:"backOff,omitempty"`
	BackOffAt time.Time       `json:"backOffAt,omitzero"` // when BackOff last grew
	Waiting   *status.Waiting `json:"waiting,omitempty"`
	NotBefore time.Time       `json:"notBefore,omitzero"` // a failed start is tried again then
	Image     Image           `json:"image,omitzero"`
	Stop      *Stop           `json:"stop,omitempty"`
	// BadHook is the ID of a container whose postStart hook failed: it must not go on.
	BadHook string `json:"badHook,omitempty"`
	// Again is the ID of a container that was ended to be started anew, whatever the restart policy says.
	Again string `json:"again,omitempty"`
}

// Image is how far a container's image is for its next start.
type Image struct {
	ID       string        `json:"id,omitempty"` // present
	Error    string        `json:"error,omitempty"`
	FailedAt time.Time     `json:"failedAt,omitzero"`
	BackOff  time.Duration `json:"backOff,omitempty"`
}

// Stop is the end of one container that has begun.
type Stop struct {
	ID     string        `json:"id"`
	Since  time.Time     `json:"since"`
	Grace  time.Duration `json:"grace"`
	KillAt time.Time     `json:"killAt,omitzero"` // when the runtime will kill it; zero: not told to stop it yet
	Hook   bool          `json:"hook,omitempty"`  // its preStop hook has begun, and is not known to have ended
}

// Retry is when something that failed is tried again.
type Retry struct {
	Failures  int       `json:"failures,omitempty"`
	NotBefore time.Time `json:"notBefore,omitzero"`
}

func (r Retry) failed(now time.Time, first, most time.Duration) Retry {
	delay := min(first<<min(r.Failures, 20), most)
	return Retry{Failures: r.Failures + 1, NotBefore: now.Add(delay)}
}

// Kind is what an action does.
type Kind string

// The kinds of actions.
const (
	None            Kind = ""
	Mount           Kind = "Mount"           // the pod's volumes
	RunSandbox      Kind = "RunSandbox"      // with the network attached
	StopSandbox     Kind = "StopSandbox"     // kills what still runs in it
	RemoveSandbox   Kind = "RemoveSandbox"   // and the containers in it
	EnsureImage     Kind = "EnsureImage"     // for the next start of a container
	StartContainer  Kind = "StartContainer"  //
	HoldBack        Kind = "HoldBack"        // say why a container is not started now
	BeginStop       Kind = "BeginStop"       // announce the end of a container, run its preStop hook
	PreStopAgain    Kind = "PreStopAgain"    // run the hook once more: the agent was restarted in its midst
	StopContainer   Kind = "StopContainer"   // signal it, and kill it after the grace period
	RemoveContainer Kind = "RemoveContainer" // one that has ended
	WriteLimits     Kind = "WriteLimits"     // of the pod and its containers, into the cgroups
	Evict           Kind = "Evict"           // decide that the pod has failed
	Finish          Kind = "Finish"          // give back network and volumes
	Forget          Kind = "Forget"          // nothing of the pod is left
)

// Cause is why a container is ended that its pod could go on with.
type Cause string

// The causes. Without one it is the pod that ends.
const (
	CutOff      Cause = "CutOff"      // the server is not heard of, and the pod may run only once
	HookFailed  Cause = "HookFailed"  // its postStart
	NotLive     Cause = "NotLive"     // so its liveness probe says
	NotStarted  Cause = "NotStarted"  // so its startup probe says
	Changed     Cause = "Changed"     // it is defined otherwise now
	Resized     Cause = "Resized"     // and its policy says that it starts anew to be so
	RestartsAll Cause = "RestartsAll" // a rule of one of its pod's containers starts all of them anew (KEP-5532)
)

// startsAnew says that the container is started again whatever the restart policy says.
func (c Cause) startsAnew() bool { return c == Changed || c == Resized }

// Action is one step.
type Action struct {
	Kind      Kind
	Container string // name
	ID        string // of the container or the sandbox
	Attempt   uint32
	Grace     time.Duration
	Cause     Cause  // of an end
	Reason    string // of what a status tells
	Message   string
}
