package status

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
)

const (
	reasonCreating      = "ContainerCreating"
	reasonInitializing  = "PodInitializing"
	reasonStatusUnknown = "ContainerStatusUnknown"
)

// view is the input, sorted for questions.
type view struct {
	in     Input
	byName map[string][]seam.Container // newest first, those still starting left out
	active map[string]bool             // IDs in the newest sandbox
	// resetting: a container's end has asked for the start of all, and the others are being taken away.
	resetting bool
}

func look(in Input) *view {
	v := &view{in: in, byName: map[string][]seam.Container{}, active: map[string]bool{}}
	for i, s := range in.Sandboxes {
		for _, c := range s.Containers {
			if in.Starting[c.ID] {
				continue
			}
			v.byName[c.Name] = append(v.byName[c.Name], c)
			if i == 0 {
				v.active[c.ID] = true
			}
		}
	}
	for _, list := range v.byName {
		slices.SortStableFunc(list, seam.NewestFirst)
	}
	v.resetting = v.reset()
	return v
}

// reset says that the pod is starting anew in its place, or has just been emptied for that.
func (v *view) reset() bool {
	if c := find(v.in.Old.Conditions, corev1.AllContainersRestarting); c != nil && c.Status == corev1.ConditionTrue {
		return true
	}
	for c := range podspec.All(v.in.Pod) {
		if o, ok := v.newest(c.Name); ok && o.State == seam.Exited && podspec.RestartsAll(c.Container, o.ExitCode) {
			return true
		}
	}
	return false
}

func (v *view) newest(name string) (seam.Container, bool) {
	if list := v.byName[name]; len(list) > 0 {
		return list[0], true
	}
	return seam.Container{}, false
}

func (v *view) anyRunning() bool {
	for _, s := range v.in.Sandboxes {
		for _, c := range s.Containers {
			if c.State == seam.Running {
				return true
			}
		}
	}
	return false
}

// appStarted says whether an app container of the newest sandbox exists: then initialisation is
// over, whatever became of the init containers.
func (v *view) appStarted() bool {
	for _, c := range v.in.Pod.Spec.Containers {
		for _, o := range v.byName[c.Name] {
			if v.active[o.ID] {
				return true
			}
		}
	}
	return false
}

func (v *view) appCreated() bool {
	for _, c := range v.in.Pod.Spec.Containers {
		if o, ok := v.newest(c.Name); ok && o.State != seam.Unknown {
			return true
		}
	}
	return false
}

func (v *view) shouldRestart(c podspec.Container) bool {
	if v.in.Pod.DeletionTimestamp != nil {
		return false
	}
	o, ok := v.newest(c.Name)
	switch {
	case !ok:
		return true
	case o.State == seam.Running:
		return false
	case v.in.Again[o.ID]:
		return true
	case o.State != seam.Exited:
		return true
	}
	return podspec.ShouldRestart(&v.in.Pod.Spec, c.Container, o.ExitCode)
}

func (v *view) containerStatuses(s *corev1.PodStatus) {
	old := map[string]corev1.ContainerStatus{}
	for _, list := range [][]corev1.ContainerStatus{v.in.Old.InitContainerStatuses, v.in.Old.ContainerStatuses, v.in.Old.EphemeralContainerStatuses} {
		for _, c := range list {
			old[c.Name] = c
		}
	}
	for c := range podspec.All(v.in.Pod) {
		before, had := old[c.Name]
		st := v.containerStatus(c, before, had)
		switch c.Kind {
		case podspec.App:
			s.ContainerStatuses = append(s.ContainerStatuses, st)
		case podspec.Ephemeral:
			s.EphemeralContainerStatuses = append(s.EphemeralContainerStatuses, st)
		default:
			s.InitContainerStatuses = append(s.InitContainerStatuses, st)
		}
	}
}

// containerStatus is one container's status: what the runtime has, else what was known before.
func (v *view) containerStatus(c podspec.Container, old corev1.ContainerStatus, had bool) corev1.ContainerStatus {
	observed := v.byName[c.Name]
	var st corev1.ContainerStatus
	switch {
	case len(observed) > 0:
		st = v.fromObserved(c, observed[0], old, had)
		if len(observed) > 1 {
			st.LastTerminationState = v.fromObserved(c, observed[1], old, had).State
		} else {
			st.LastTerminationState = v.lastState(observed[0], old, had)
		}
	case v.resetting && had && c.Kind != podspec.Ephemeral && (old.State.Waiting == nil || old.State.Waiting.Reason == podspec.RestartingAll):
		return v.taken(c, old)
	case had && old.State.Terminated != nil:
		st = *old.DeepCopy()
	default:
		st = v.unseen(c, old, had)
	}
	return v.waiting(c, st, len(observed) > 0)
}

// lastState remembers the end of the container before, which the runtime may have removed.
func (v *view) lastState(o seam.Container, old corev1.ContainerStatus, had bool) corev1.ContainerState {
	if !had {
		return corev1.ContainerState{}
	}
	if old.ContainerID != ContainerIDPrefix+o.ID && old.State.Terminated != nil {
		return *old.State.DeepCopy()
	}
	return *old.LastTerminationState.DeepCopy()
}

func (v *view) base(c podspec.Container) corev1.ContainerStatus {
	st := corev1.ContainerStatus{Name: c.Name, Image: c.Image}
	for _, m := range c.VolumeMounts {
		mount := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := corev1.RecursiveReadOnlyDisabled
			if ok, err := podspec.RecursiveReadOnly(m); ok && err == nil {
				mode = corev1.RecursiveReadOnlyEnabled
			}
			mount.RecursiveReadOnly = &mode
		}
		st.VolumeMounts = append(st.VolumeMounts, mount)
	}
	return st
}

// emptied says that nothing is left of the containers that a start anew takes away.
func (v *view) emptied() bool {
	for c := range podspec.All(v.in.Pod) {
		if _, ok := v.newest(c.Name); ok && c.Kind != podspec.Ephemeral {
			return false
		}
	}
	return true
}

// unseen is the status of a container that the runtime does not have.
func (v *view) unseen(c podspec.Container, old corev1.ContainerStatus, had bool) corev1.ContainerStatus {
	st := v.base(c)
	reason := reasonCreating
	if len(v.in.Pod.Spec.InitContainers) > 0 {
		reason = reasonInitializing
	}
	st.State.Waiting = &corev1.ContainerStateWaiting{Reason: reason}
	if !had {
		return st
	}
	st.RestartCount = old.RestartCount
	st.LastTerminationState = *old.LastTerminationState.DeepCopy()
	if old.State.Running == nil || st.LastTerminationState.Terminated != nil {
		return st
	}
	// It ran and is gone: it ended somehow, and must not look as if it had never run.
	st.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{
		Reason: reasonStatusUnknown, Message: "The container could not be located when the pod was deleted.  The container used to be Running", ExitCode: 137,
	}
	if v.in.Pod.DeletionTimestamp == nil {
		st.RestartCount++
	}
	return st
}

// taken is the status of a container that was taken away to be started anew.
func (v *view) taken(c podspec.Container, old corev1.ContainerStatus) corev1.ContainerStatus {
	const message = "The container is removed because RestartAllContainers in place"
	if old.State.Waiting != nil { // it was said already
		return *old.DeepCopy()
	}
	st := v.base(c)
	st.RestartCount = old.RestartCount + 1
	st.State.Waiting = &corev1.ContainerStateWaiting{Reason: podspec.RestartingAll, Message: message}
	st.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: podspec.RestartingAll, Message: message, ExitCode: 137}
	return st
}

func (v *view) fromObserved(c podspec.Container, o seam.Container, old corev1.ContainerStatus, had bool) corev1.ContainerStatus {
	st := v.base(c)
	st.RestartCount = int32(o.Attempt)
	if had && old.RestartCount > st.RestartCount {
		st.RestartCount = old.RestartCount
	}
	if o.Image != "" {
		st.Image = o.Image
	}
	st.ImageID = o.ImageID
	st.ContainerID = ContainerIDPrefix + o.ID
	st.Resources = actual(c, o)
	st.AllocatedResources = c.Resources.Requests.DeepCopy()
	if o.User != nil {
		st.User = &corev1.ContainerUser{Linux: o.User.DeepCopy()}
	}
	switch o.State {
	case seam.Running:
		st.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(o.StartedAt)}
	case seam.Exited:
		st.State.Terminated = &corev1.ContainerStateTerminated{
			ExitCode: o.ExitCode, Reason: endReason(o), Message: o.Message, ContainerID: st.ContainerID,
			StartedAt: metav1.NewTime(o.StartedAt), FinishedAt: metav1.NewTime(o.FinishedAt),
		}
	case seam.Unknown:
		if had && old.State.Running != nil {
			st.State.Terminated = &corev1.ContainerStateTerminated{
				Reason: reasonStatusUnknown, Message: "The container could not be located when the pod was terminated", ExitCode: 137,
			}
			break
		}
		st.State.Waiting = &corev1.ContainerStateWaiting{}
	default:
		st.State.Waiting = &corev1.ContainerStateWaiting{}
	}
	return st
}

// actual is what a container has: what it was given, but for what its cgroup says otherwise while it runs.
func actual(c podspec.Container, o seam.Container) *corev1.ResourceRequirements {
	r := c.Resources.DeepCopy()
	if o.State != seam.Running || o.Resources == nil {
		return r
	}
	follow := func(list, cgroup corev1.ResourceList) {
		for _, name := range podspec.Compute {
			given, asked := list[name]
			has, some := cgroup[name]
			switch {
			case !asked || some && has.Cmp(given) == 0:
			case some:
				list[name] = has.DeepCopy()
			default:
				delete(list, name)
			}
		}
	}
	follow(r.Limits, o.Resources.Limits)
	follow(r.Requests, o.Resources.Requests)
	return r
}

func endReason(o seam.Container) string {
	switch {
	case o.Reason != "":
		return o.Reason
	case o.OOMKilled:
		return "OOMKilled"
	case o.ExitCode == 0:
		return "Completed"
	}
	return "Error"
}

// waiting replaces the state of a container that is to be started by why it is not.
func (v *view) waiting(c podspec.Container, st corev1.ContainerStatus, seen bool) corev1.ContainerStatus {
	isInit := c.Kind == podspec.Init || c.Kind == podspec.Sidecar
	if isInit {
		o, _ := v.newest(c.Name)
		if seen && o.State == seam.Exited && o.ExitCode == 0 && c.Kind == podspec.Init {
			return st
		}
		if !seen && c.Kind == podspec.Init && st.State.Waiting != nil && v.appCreated() {
			st.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				Reason: "Completed", Message: "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally",
			}}
			return st
		}
	}
	why, ok := v.in.Waiting[c.Name]
	if !ok || !v.shouldRestart(c) {
		return st
	}
	if st.State.Terminated != nil {
		st.LastTerminationState = st.State
	}
	st.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: why.Reason, Message: why.Message}}
	return st
}

// readiness fills started and ready from the probes.
func (v *view) readiness(s *corev1.PodStatus) {
	old := map[string]corev1.ContainerStatus{}
	for _, c := range append(slices.Clone(v.in.Old.InitContainerStatuses), v.in.Old.ContainerStatuses...) {
		if c.ContainerID != "" {
			old[c.ContainerID] = c
		}
	}
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for i := range list {
			st := &list[i]
			spec, _ := podspec.Find(v.in.Pod, st.Name)
			before, had := old[st.ContainerID]
			started := v.started(spec, st, before, had)
			st.Started = &started
			if spec.Kind == podspec.Init {
				st.Ready = st.State.Terminated != nil && st.State.Terminated.ExitCode == 0
				continue
			}
			st.Ready = started && v.ready(spec, st, before, had)
		}
	}
}

func (v *view) probes(st *corev1.ContainerStatus) Probes {
	return v.in.Probes[trimPrefix(st.ContainerID)]
}

func trimPrefix(id string) string {
	if len(id) >= len(ContainerIDPrefix) {
		return id[len(ContainerIDPrefix):]
	}
	return id
}

// started and ready keep what was said before a restart of the agent until a probe says otherwise:
// a restart of the agent makes no pod unready.
func (v *view) started(c podspec.Container, st *corev1.ContainerStatus, before corev1.ContainerStatus, had bool) bool {
	if st.State.Running == nil {
		return false
	}
	if c.StartupProbe == nil || c.Kind == podspec.Init {
		return true
	}
	switch v.probes(st).Startup {
	case Success:
		return true
	case Failure:
		return false
	}
	return had && before.Started != nil && *before.Started
}

func (v *view) ready(c podspec.Container, st *corev1.ContainerStatus, before corev1.ContainerStatus, had bool) bool {
	if st.State.Running == nil {
		return false
	}
	if c.ReadinessProbe == nil {
		return true
	}
	switch v.probes(st).Readiness {
	case Success:
		return true
	case Failure:
		return false
	}
	return had && before.Ready
}
