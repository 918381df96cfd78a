package status

import (
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/podspec"
)

// tally counts the containers of a pod by what they do.
type tally struct {
	pendingInit, failedInit   int
	pendingSidecar            int
	running, waiting, unknown int
	stopped, ended, succeeded int // ended: stopped and not started again
}

func (v *view) phase(s corev1.PodStatus) corev1.PodPhase {
	t := v.tally(s)
	switch {
	case t.failedInit > 0:
		return corev1.PodFailed
	case t.pendingInit > 0, t.pendingSidecar > 0 && !v.appStarted(), t.waiting > 0:
		return corev1.PodPending
	case t.running > 0 && t.unknown == 0:
		return corev1.PodRunning
	case t.running == 0 && t.stopped > 0 && t.unknown == 0:
		switch {
		case !v.in.Stopped && t.stopped != t.ended:
			return corev1.PodRunning
		case t.stopped == t.succeeded:
			return corev1.PodSucceeded
		}
		return corev1.PodFailed
	}
	return corev1.PodPending
}

func (v *view) tally(s corev1.PodStatus) tally {
	var t tally
	for _, st := range s.InitContainerStatuses {
		c, _ := podspec.Find(v.in.Pod, st.Name)
		if c.Kind == podspec.Sidecar {
			t.sidecar(st)
		} else {
			t.init(&v.in.Pod.Spec, c, st)
		}
	}
	for _, st := range s.ContainerStatuses {
		c, _ := podspec.Find(v.in.Pod, st.Name)
		t.app(&v.in.Pod.Spec, c, st, v.in.Again[trimPrefix(st.ContainerID)])
	}
	return t
}

func (t *tally) init(spec *corev1.PodSpec, c podspec.Container, st corev1.ContainerStatus) {
	end := st.State.Terminated
	if end == nil && st.State.Waiting != nil {
		end = st.LastTerminationState.Terminated
	}
	switch {
	case st.State.Running != nil || end == nil:
		t.pendingInit++
	case end.ExitCode != 0 && !restarts(spec, c, end):
		t.failedInit++
	}
}

func (t *tally) sidecar(st corev1.ContainerStatus) {
	switch {
	case st.State.Running != nil:
		if st.Started == nil || !*st.Started {
			t.pendingSidecar++
		}
		t.running++
	case st.State.Terminated != nil:
	case st.State.Waiting != nil:
		if st.LastTerminationState.Terminated == nil {
			t.pendingSidecar++
			t.waiting++
		}
	default:
		t.pendingSidecar++
		t.unknown++
	}
}

func (t *tally) app(spec *corev1.PodSpec, c podspec.Container, st corev1.ContainerStatus, again bool) {
	switch {
	case st.State.Running != nil:
		t.running++
	case st.State.Terminated != nil:
		t.stopped++
		if !again && !restarts(spec, c, st.State.Terminated) {
			t.ended++
		}
		if st.State.Terminated.ExitCode == 0 {
			t.succeeded++
		}
	case st.State.Waiting != nil:
		last := st.LastTerminationState.Terminated
		if last == nil {
			t.waiting++
			return
		}
		t.stopped++
		if !again && !restarts(spec, c, last) {
			t.ended++
		}
	default:
		t.unknown++
	}
}

// restarts says whether a container that ended so is started again.
func restarts(spec *corev1.PodSpec, c podspec.Container, end *corev1.ContainerStateTerminated) bool {
	return end.Reason == podspec.RestartingAll || podspec.ShouldRestart(spec, c.Container, end.ExitCode)
}
