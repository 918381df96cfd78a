package daemonset

import (
	"bramble.dev/server/controllers/pods"
)

// count fills the status: of each node the pod that came first counts.
func (p *planner) count() {
	s := *p.ds.Status.DeepCopy()
	s.ObservedGeneration = p.ds.Generation
	s.CollisionCount = p.collisions
	s.DesiredNumberScheduled, s.CurrentNumberScheduled, s.NumberMisscheduled = 0, 0, 0
	s.NumberReady, s.NumberAvailable, s.UpdatedNumberScheduled = 0, 0, 0
	for _, at := range p.places {
		switch {
		case !at.exists:
			continue
		case !at.start:
			if len(at.pods) > 0 {
				s.NumberMisscheduled++
			}
			continue
		}
		s.DesiredNumberScheduled++
		if len(at.pods) == 0 {
			continue
		}
		s.CurrentNumberScheduled++
		pod := at.pods[0]
		if pods.IsReady(pod) {
			s.NumberReady++
		}
		if p.isAvailable(pod) {
			s.NumberAvailable++
		}
		if p.isUpdated(pod) {
			s.UpdatedNumberScheduled++
		}
	}
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	p.status = s
}
