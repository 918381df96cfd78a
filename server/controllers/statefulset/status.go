package statefulset

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
)

// count fills the status from the pods that are there.
func (p *planner) count() {
	s := &p.status
	*s = appsv1.StatefulSetStatus{
		ObservedGeneration: p.set.Generation,
		CurrentRevision:    p.current.name,
		UpdateRevision:     p.update.name,
		CollisionCount:     &p.collisions,
		Conditions:         slices.Clone(p.set.Status.Conditions),
	}
	for _, pod := range p.pods {
		if ordinalOf(pod) < 0 {
			continue
		}
		s.Replicas++
		if isServing(pod) {
			s.ReadyReplicas++
			if p.isAvailable(pod) {
				s.AvailableReplicas++
			}
		}
		if pod.DeletionTimestamp != nil {
			continue
		}
		if revisionOf(pod) == p.current.name {
			s.CurrentReplicas++
		}
		if revisionOf(pod) == p.update.name {
			s.UpdatedReplicas++
		}
	}
}

// complete makes the newest revision the current one when all pods are of it.
func (p *planner) complete() {
	s, all := &p.status, *p.set.Spec.Replicas
	if s.UpdatedReplicas == all && s.ReadyReplicas == all && s.Replicas == all {
		s.CurrentReplicas = s.UpdatedReplicas
		s.CurrentRevision = s.UpdateRevision
	}
}
