// Package status says in the words of the API what the agent observed: the status of a pod, and of
// this node.
//
// Invariant: the generators are pure functions of what they are given, among it the status that was
// generated before, and their words (reasons, messages, conditions) are the kubelet's, since people
// and tests compare them. A pod that has reached Succeeded or Failed never leaves that phase, and
// does not reach it while one of its containers still runs.
//
//	s := status.Generate(status.Input{Pod: pod, Old: pod.Status, Sandboxes: observed, Now: now})
package status

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/resource"

	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
)

// Waiting is why a container is not running.
type Waiting struct{ Reason, Message string }

// Result is what a probe last said. Unknown: it has not said anything about this container.
type Result int

// The results of probes.
const (
	Unknown Result = iota
	Success
	Failure
)

// Probes are the results for one container.
type Probes struct{ Startup, Liveness, Readiness Result }

// Resize is a change of a pod's resources. Generation is that of the pod which asked for it.
type Resize struct {
	Reason     string `json:"reason,omitempty"`
	Message    string `json:"message,omitempty"`
	Generation int64  `json:"generation,omitempty"`
}

// Input is what a pod's status is made from.
type Input struct {
	Pod *corev1.Pod
	Old corev1.PodStatus // the one generated before, or what the server sent
	// Sandboxes of the pod, newest first.
	Sandboxes []seam.Sandbox
	PodIPs    []string
	HostIPs   []string
	Waiting   map[string]Waiting // by container name
	Probes    map[string]Probes  // by container ID
	// Starting holds the IDs of containers whose postStart hook has not returned: they are not
	// reported as running before it has.
	Starting map[string]bool
	// Again holds the IDs of containers that were ended to be started anew, whatever the restart policy says.
	Again map[string]bool
	// Pending is why another size that is asked for is not given yet; Resizing is one that is given, and not there yet.
	Pending, Resizing *Resize
	// Evicted is set once the node decided to end the pod (deadline, pressure, not admitted).
	Evicted *Waiting
	// Rejected: the node never took the pod in; Evicted says why.
	Rejected bool
	// Disruption is told with the pod's failure; nil: nothing of the kind.
	Disruption *corev1.PodCondition
	// Stopped: no container runs and none will be started again.
	Stopped bool
	// Finished: nothing of the pod is left but its record.
	Finished bool
	Now      time.Time
}

// ContainerIDPrefix is the scheme of container IDs in statuses.
const ContainerIDPrefix = "bramble://"

// Generate makes the status of a pod.
func Generate(in Input) corev1.PodStatus {
	v := look(in)
	s := corev1.PodStatus{
		QOSClass:           podspec.QOS(in.Pod),
		ObservedGeneration: max(in.Pod.Generation, in.Old.ObservedGeneration),
		NominatedNodeName:  in.Pod.Status.NominatedNodeName,
	}
	if in.Rejected {
		// There is nothing to tell of containers that nobody ever meant to start.
		s.Phase, s.Reason, s.Message = corev1.PodFailed, in.Evicted.Reason, in.Evicted.Message
		s.Conditions = v.foreign()
		start(&s, in)
		normalize(&s, in.Pod)
		return s
	}
	addresses(&s, in)
	v.containerStatuses(&s)
	v.readiness(&s)
	if in.Finished {
		finish(&s, in.Pod)
	}
	settle(&s, in, v.phase(s))
	resources(&s, in)
	v.conditions(&s)
	if Terminal(s.Phase) && !Terminal(in.Old.Phase) && v.anyRunning() {
		// What uses an exclusive resource has not ended yet; readiness already says so.
		s.Phase, s.Reason, s.Message = in.Old.Phase, in.Old.Reason, in.Old.Message
		if s.Phase == "" {
			s.Phase = corev1.PodPending
		}
	}
	disrupted(&s, in)
	start(&s, in)
	normalize(&s, in.Pod)
	return s
}

// Decided is the phase that the observed containers lead to, also where Generate still holds it
// back because some of them run.
func Decided(in Input) corev1.PodPhase {
	v := look(in)
	var s corev1.PodStatus
	v.containerStatuses(&s)
	v.readiness(&s)
	settle(&s, in, v.phase(s))
	return s.Phase
}

// settle decides phase, reason and message from the computed phase, the one before and an eviction.
func settle(s *corev1.PodStatus, in Input, phase corev1.PodPhase) {
	s.Phase = phase
	if in.Finished && !Terminal(s.Phase) {
		s.Phase = corev1.PodFailed
	}
	for _, before := range []corev1.PodPhase{in.Pod.Status.Phase, in.Old.Phase} {
		if Terminal(before) {
			s.Phase = before
		}
	}
	if s.Phase == in.Old.Phase {
		s.Reason, s.Message = in.Old.Reason, in.Old.Message
	}
	if in.Evicted != nil && !Terminal(in.Old.Phase) && !Terminal(in.Pod.Status.Phase) {
		s.Phase, s.Reason, s.Message = corev1.PodFailed, in.Evicted.Reason, in.Evicted.Message
	}
}

// Terminal says whether a phase is one that a pod never leaves.
func Terminal(p corev1.PodPhase) bool { return p == corev1.PodSucceeded || p == corev1.PodFailed }

func addresses(s *corev1.PodStatus, in Input) {
	ips := in.PodIPs
	if in.Pod.Spec.HostNetwork {
		ips = in.HostIPs
		if len(in.Old.PodIPs) > 0 { // a host network pod keeps the address that it started with
			ips = nil
			for _, ip := range in.Old.PodIPs {
				ips = append(ips, ip.IP)
			}
		}
	} else if len(ips) == 0 && (in.Stopped || Terminal(in.Old.Phase)) {
		for _, ip := range in.Old.PodIPs {
			ips = append(ips, ip.IP)
		}
	}
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		s.PodIP = ips[0]
	}
	for _, ip := range in.HostIPs {
		s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip})
	}
	if len(in.HostIPs) == 0 { // a board whose cable is out tells what it told
		s.HostIPs = slices.Clone(in.Old.HostIPs)
	}
	if len(s.HostIPs) > 0 {
		s.HostIP = s.HostIPs[0].IP
	}
}

func start(s *corev1.PodStatus, in Input) {
	switch {
	case in.Old.StartTime != nil:
		s.StartTime = in.Old.StartTime.DeepCopy()
	case in.Pod.Status.StartTime != nil:
		s.StartTime = in.Pod.Status.StartTime.DeepCopy()
	default:
		s.StartTime = &metav1.Time{Time: in.Now}
	}
}

func resources(s *corev1.PodStatus, in Input) {
	opts := resource.PodResourcesOptions{}
	s.AllocatedResources = resource.PodRequests(in.Pod, opts)
	limits := resource.PodLimits(in.Pod, opts)
	if len(s.AllocatedResources) == 0 {
		s.AllocatedResources = nil
	}
	if len(limits) == 0 {
		limits = nil
	}
	if len(in.Sandboxes) > 0 && in.Sandboxes[0].Resources != nil && s.Phase == corev1.PodRunning {
		s.Resources = actualPod(in.Pod, s.AllocatedResources, in.Sandboxes[0].Resources)
		return
	}
	s.Resources = &corev1.ResourceRequirements{Requests: s.AllocatedResources.DeepCopy(), Limits: limits}
	if in.Pod.Spec.Resources != nil {
		s.Resources.Claims = in.Pod.Spec.Resources.Claims
	}
}

// leastCPU is what a pod that asks for no processor time is given all the same; nobody is told of it.
var leastCPU = quantity.MustParse("2m")

// actualPod is what a running pod's cgroup gives.
func actualPod(pod *corev1.Pod, requests corev1.ResourceList, actual *corev1.ResourceRequirements) *corev1.ResourceRequirements {
	r := &corev1.ResourceRequirements{}
	if pod.Spec.Resources != nil {
		r = pod.Spec.Resources.DeepCopy()
	}
	set := func(list *corev1.ResourceList, name corev1.ResourceName, q quantity.Quantity) {
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = q.DeepCopy()
	}
	if q, ok := actual.Requests[corev1.ResourceCPU]; ok && (q.Cmp(leastCPU) > 0 || r.Requests.Cpu().Cmp(leastCPU) > 0) {
		set(&r.Requests, corev1.ResourceCPU, q)
	}
	if _, ok := r.Requests[corev1.ResourceMemory]; !ok {
		if q, ok := requests[corev1.ResourceMemory]; ok {
			set(&r.Requests, corev1.ResourceMemory, q)
		}
	}
	for _, name := range podspec.Compute {
		if q, ok := actual.Limits[name]; ok {
			set(&r.Limits, name, q)
		}
	}
	return r
}

// finish gives every container that may have run an end, for nothing of the pod is left.
func finish(s *corev1.PodStatus, pod *corev1.Pod) {
	lost := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		Reason: reasonStatusUnknown, Message: "The container could not be located when the pod was terminated", ExitCode: 137,
	}}
	if initialized(s, pod) {
		for i := range s.ContainerStatuses {
			if s.ContainerStatuses[i].State.Terminated == nil {
				s.ContainerStatuses[i].State = lost
			}
		}
	}
	for i := range began(s.InitContainerStatuses) {
		if s.InitContainerStatuses[i].State.Terminated == nil {
			s.InitContainerStatuses[i].State = lost
		}
	}
}

// initialized says whether an app container may have started.
func initialized(s *corev1.PodStatus, pod *corev1.Pod) bool {
	if len(pod.Spec.InitContainers) == 0 {
		return true
	}
	for _, c := range s.ContainerStatuses {
		if c.LastTerminationState.Terminated != nil || c.State.Waiting == nil {
			return true
		}
	}
	if n := len(s.InitContainerStatuses); n > 0 {
		c := s.InitContainerStatuses[n-1]
		if spec, _ := podspec.Find(pod, c.Name); spec.Kind == podspec.Sidecar {
			return c.State.Running != nil && c.Started != nil && *c.Started
		}
		for _, state := range []corev1.ContainerState{c.State, c.LastTerminationState} {
			if state.Terminated != nil && state.Terminated.ExitCode == 0 {
				return true
			}
		}
	}
	return false
}

// began returns the init containers up to the last one that may have started; always the first.
func began(all []corev1.ContainerStatus) []corev1.ContainerStatus {
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].State.Waiting == nil || all[i].LastTerminationState.Terminated != nil {
			return all[:i+1]
		}
	}
	if len(all) > 0 {
		return all[:1]
	}
	return nil
}

// maxMessages bounds what the termination messages of one pod may hold together.
const maxMessages = 12 << 10

// normalize makes equal statuses equal in every byte: times to the second, lists in order.
func normalize(s *corev1.PodStatus, pod *corev1.Pod) {
	bound := maxMessages
	if n := len(pod.Spec.InitContainers) + len(pod.Spec.Containers) + len(pod.Spec.EphemeralContainers); n > 0 {
		bound /= n
	}
	second := func(t *metav1.Time) { *t = t.Rfc3339Copy() }
	second(s.StartTime)
	for i := range s.Conditions {
		second(&s.Conditions[i].LastProbeTime)
		second(&s.Conditions[i].LastTransitionTime)
	}
	for _, list := range [][]corev1.ContainerStatus{s.ContainerStatuses, s.InitContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			for _, state := range []*corev1.ContainerState{&list[i].State, &list[i].LastTerminationState} {
				if r := state.Running; r != nil {
					r = r.DeepCopy() // it may be shared with the status before
					second(&r.StartedAt)
					state.Running = r
				}
				if t := state.Terminated; t != nil {
					t = t.DeepCopy()
					second(&t.StartedAt)
					second(&t.FinishedAt)
					if len(t.Message) > bound {
						t.Message = t.Message[:bound]
					}
					state.Terminated = t
				}
			}
		}
	}
	byName := func(a, b corev1.ContainerStatus) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(s.ContainerStatuses, byName)
	slices.SortFunc(s.EphemeralContainerStatuses, byName)
}
