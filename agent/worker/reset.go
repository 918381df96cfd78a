package worker

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/podspec"
	"bramble.dev/agent/seam"
)

// reset takes away every container of a pod of which one ended by a rule that asks for it, and says whether it is at that.
// The one that asked goes last: an agent that is killed in between finds it, and goes on.
func (p *planner) reset() bool {
	var others, asked, running []seam.Container
	pending := false
	for _, kinds := range [][]podspec.Kind{{podspec.App}, {podspec.Init, podspec.Sidecar}} {
		for c := range podspec.All(p.d.Pod) {
			if !slices.Contains(kinds, c.Kind) {
				continue
			}
			for i, o := range p.byName[c.Name] {
				switch {
				case o.State == seam.Exited && podspec.RestartsAll(c.Container, o.ExitCode):
					pending = pending || i == 0
					asked = append(asked, o)
				case o.State == seam.Exited:
					others = append(others, o)
				default:
					running = append(running, o)
				}
			}
		}
	}
	if !pending {
		return false
	}
	for _, o := range running {
		if o.State == seam.Running {
			p.stop(o, 0, RestartsAll, "killing", true)
		} else {
			p.unfit(o, p.o.Memory.Containers[o.Name])
		}
	}
	if len(running) > 0 {
		return true
	}
	o := append(others, asked...)[0]
	return p.do(Action{Kind: RemoveContainer, Container: o.Name, ID: o.ID, Cause: RestartsAll})
}

// wasReset says that a container was taken away to be started anew with all others of its pod.
func wasReset(s corev1.ContainerState) bool {
	return s.Terminated != nil && s.Terminated.Reason == podspec.RestartingAll
}
