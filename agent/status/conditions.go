package status

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
)

const (
	reasonPodCompleted   = "PodCompleted"
	reasonPodFailed      = "PodFailed"
	reasonNotReady       = "ContainersNotReady"
	reasonNotInitialized = "ContainersNotInitialized"
	reasonGatesNotReady  = "ReadinessGatesNotReady"
	reasonNoSandbox      = "PodSandboxNotReady"
	reasonRestartingAll  = "RestartAllContainersStarted"
)

// owned are the conditions that the node writes; it carries all others as they are.
func owned(t corev1.PodConditionType) bool {
	switch t {
	case corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReadyToStartContainers,
		corev1.PodResizePending, corev1.PodResizeInProgress, corev1.AllContainersRestarting:
		return true
	}
	return false
}

func (v *view) conditions(s *corev1.PodStatus) {
	foreign := v.foreign()
	s.Conditions = foreign
	v.resizing(s)
	ready := v.containersReady(s)
	own := []corev1.PodCondition{
		v.readyToStart(), v.initialized(s), v.podReady(ready, foreign), ready, {Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
	}
	if podspec.CouldRestartAll(v.in.Pod) {
		own = append(own, v.restartingAll(s))
	}
	for _, c := range own {
		c.ObservedGeneration = v.in.Pod.Generation
		c.LastTransitionTime = v.since(c)
		s.Conditions = append(s.Conditions, c)
	}
}

// foreign are the conditions that others have written.
func (v *view) foreign() []corev1.PodCondition {
	var out []corev1.PodCondition
	for _, c := range v.in.Pod.Status.Conditions {
		if !owned(c.Type) {
			out = append(out, c)
		}
	}
	return out
}

// resizing says how far a change of the pod's resources is.
func (v *view) resizing(s *corev1.PodStatus) {
	if Terminal(s.Phase) {
		return
	}
	for _, r := range []struct {
		kind corev1.PodConditionType
		*Resize
	}{{corev1.PodResizePending, v.in.Pending}, {corev1.PodResizeInProgress, v.in.Resizing}} {
		if r.Resize == nil {
			continue
		}
		c := corev1.PodCondition{Type: r.kind, Status: corev1.ConditionTrue, Reason: r.Reason, Message: r.Message, ObservedGeneration: r.Generation}
		c.LastTransitionTime = metav1.NewTime(v.in.Now)
		if old := find(v.in.Old.Conditions, r.kind); old != nil && old.Reason == r.Reason {
			c.LastTransitionTime = old.LastTransitionTime
		}
		s.Conditions = append(s.Conditions, c)
	}
}

// since is when the condition took its present value.
func (v *view) since(c corev1.PodCondition) metav1.Time {
	for _, from := range [][]corev1.PodCondition{v.in.Old.Conditions, v.in.Pod.Status.Conditions} {
		for _, o := range from {
			if o.Type == c.Type && o.Status == c.Status {
				return o.LastTransitionTime
			}
			if o.Type == c.Type {
				return metav1.NewTime(v.in.Now)
			}
		}
	}
	return metav1.NewTime(v.in.Now)
}

func (v *view) readyToStart() corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse, Reason: reasonNoSandbox}
	switch why := sandboxNeeded(v.in.Pod, v.in.Sandboxes, v.in.PodIPs); why {
	case "":
		return corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue}
	default:
		c.Message = why
	}
	return c
}

// sandboxNeeded says why the pod needs a new sandbox, or "" if it has a good one.
func sandboxNeeded(pod *corev1.Pod, sandboxes []seam.Sandbox, ips []string) string {
	if len(sandboxes) == 0 {
		return "no pod sandbox exists"
	}
	ready := 0
	for _, s := range sandboxes {
		if s.Ready {
			ready++
		}
	}
	switch {
	case ready > 1:
		return "multiple pod sandboxes are ready and need to be reconciled"
	case !sandboxes[0].Ready:
		return "pod sandbox is not ready"
	case !pod.Spec.HostNetwork && len(ips) == 0:
		return "pod sandbox has no IP address"
	}
	return ""
}

// statuses returns what is not there, and what is there and does not pass.
func (v *view) statuses(s *corev1.PodStatus, want func(podspec.Container) bool, good func(podspec.Container, corev1.ContainerStatus) bool) (unknown, bad []string) {
	found := map[string]corev1.ContainerStatus{}
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for _, c := range list {
			found[c.Name] = c
		}
	}
	for c := range podspec.All(v.in.Pod) {
		if !want(c) {
			continue
		}
		st, ok := found[c.Name]
		switch {
		case !ok:
			unknown = append(unknown, c.Name)
		case !good(c, st):
			bad = append(bad, c.Name)
		}
	}
	return unknown, bad
}

// restartingAll says that the pod is on its way to a new start in its place: its containers are being taken away (KEP-5532).
func (v *view) restartingAll(s *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.AllContainersRestarting, Status: corev1.ConditionFalse}
	switch {
	case s.Phase == corev1.PodSucceeded:
		c.Reason = reasonPodCompleted
	case s.Phase == corev1.PodFailed:
		c.Reason = reasonPodFailed
	case v.resetting && !v.emptied():
		c.Status, c.Reason, c.Message = corev1.ConditionTrue, reasonRestartingAll, "container exited with restart policy rule"
	}
	return c
}

func joined(word string, unknown, bad []string) string {
	var parts []string
	if len(unknown) > 0 {
		parts = append(parts, fmt.Sprintf("containers with unknown status: %s", unknown))
	}
	if len(bad) > 0 {
		parts = append(parts, fmt.Sprintf("containers with %s status: %s", word, bad))
	}
	return strings.Join(parts, ", ")
}

func (v *view) containersReady(s *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionFalse}
	unknown, unready := v.statuses(s,
		func(c podspec.Container) bool { return c.Kind == podspec.App || c.Kind == podspec.Sidecar },
		func(_ podspec.Container, st corev1.ContainerStatus) bool { return st.Ready })
	message := joined("unready", unknown, unready)
	switch {
	case s.Phase == corev1.PodSucceeded && len(unknown) == 0:
		c.Reason = reasonPodCompleted
	case s.Phase == corev1.PodFailed:
		c.Reason = reasonPodFailed
	case message != "":
		c.Reason, c.Message = reasonNotReady, message
	default:
		c.Status = corev1.ConditionTrue
	}
	return c
}

func (v *view) podReady(containers corev1.PodCondition, foreign []corev1.PodCondition) corev1.PodCondition {
	c := containers
	c.Type = corev1.PodReady
	if c.Status != corev1.ConditionTrue {
		return c
	}
	var closed []string
	for _, gate := range v.in.Pod.Spec.ReadinessGates {
		at := find(foreign, gate.ConditionType)
		switch {
		case at == nil:
			closed = append(closed, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", string(gate.ConditionType)))
		case at.Status != corev1.ConditionTrue:
			closed = append(closed, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", string(gate.ConditionType), at.Status))
		}
	}
	if len(closed) > 0 {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, reasonGatesNotReady, strings.Join(closed, ", ")
	}
	return c
}

func find(list []corev1.PodCondition, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range list {
		if list[i].Type == t {
			return &list[i]
		}
	}
	return nil
}

func (v *view) initialized(s *corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	unknown, incomplete := v.statuses(s,
		func(c podspec.Container) bool { return c.Kind == podspec.Init || c.Kind == podspec.Sidecar },
		func(c podspec.Container, st corev1.ContainerStatus) bool {
			if c.Kind == podspec.Sidecar {
				return st.Started != nil && *st.Started
			}
			return st.Ready
		})
	if s.Phase == corev1.PodSucceeded && len(unknown) == 0 {
		c.Reason = reasonPodCompleted
		return c
	}
	for _, st := range s.ContainerStatuses {
		if st.State.Running != nil || st.State.Terminated != nil {
			return c
		}
	}
	// A pod that was initialized once stays so, also when its init containers run again.
	before := find(v.in.Old.Conditions, c.Type)
	if message := joined("incomplete", unknown, incomplete); message != "" && (before == nil || before.Status != corev1.ConditionTrue) {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, reasonNotInitialized, message
	}
	return c
}

// disrupted says that the pod failed because its node could not go on with it.
func disrupted(s *corev1.PodStatus, in Input) {
	if in.Disruption == nil || !Terminal(s.Phase) {
		return
	}
	c := *in.Disruption
	if at := find(s.Conditions, c.Type); at != nil {
		if at.Status == c.Status {
			c.LastTransitionTime = at.LastTransitionTime
		}
		*at = c
		return
	}
	s.Conditions = append([]corev1.PodCondition{c}, s.Conditions...)
}
