package daemonset

import (
	"k8s.io/apimachinery/pkg/util/intstr"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// surges says that a node may have two pods for a while.
func (p *planner) surges() bool {
	surge, _ := bounds(p.ds, 1)
	return surge > 0
}

// bounds scales the limits of a rollout to the number of nodes.
func bounds(ds *appsv1.DaemonSet, nodes int) (surge, unavailable int) {
	r := ds.Spec.UpdateStrategy.RollingUpdate
	if ds.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType || r == nil {
		return 0, 0
	}
	surge = scaled(r.MaxSurge, nodes)
	unavailable = scaled(r.MaxUnavailable, nodes)
	if nodes > 0 && surge == 0 && unavailable == 0 {
		unavailable = 1 // or nothing could ever be rolled over
	}
	return surge, unavailable
}

func scaled(limit *intstr.IntOrString, nodes int) int {
	if limit == nil {
		return 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(limit, nodes, true)
	if err != nil {
		return 0 // the API lets nothing through that cannot be parsed
	}
	return n
}

// rollOver replaces pods of old templates, when all else is as it should be.
func (p *planner) rollOver() {
	wanted := 0
	for _, at := range p.places {
		if at.exists && at.start {
			wanted++
		}
	}
	surge, unavailable := bounds(p.ds, wanted)
	if surge == 0 {
		p.replace(unavailable)
	} else {
		p.surge(surge, wanted)
	}
}

// updated and old are the one pod of the present template and the one of an
// older on a node. It is not ok if there are more.
func (p *planner) split(at *place) (updated, old *corev1.Pod, ok bool) {
	for _, pod := range at.pods {
		switch isNew := p.isUpdated(pod); {
		case pod.DeletionTimestamp != nil:
		case isNew && updated == nil:
			updated = pod
		case !isNew && old == nil:
			old = pod
		default:
			return nil, nil, false
		}
	}
	return updated, old, true
}

// replace deletes old pods that are not available, which costs nothing, and as
// many others as may be unavailable beside those and the new ones.
func (p *planner) replace(most int) {
	var candidates []*corev1.Pod
	away := 0
	for _, at := range p.places {
		if len(at.pods) == 0 && !(at.exists && at.start) {
			continue
		}
		updated, old, ok := p.split(at)
		switch {
		case !ok || (updated == nil) == (old == nil): // being deleted, made or pruned
			away++
		case updated != nil:
			if !p.isAvailable(updated) {
				away++
			}
		case p.isAvailable(old):
			candidates = append(candidates, old)
		default:
			p.delete = append(p.delete, old)
			away++
		}
	}
	room := min(max(most-away, 0), len(candidates))
	p.delete = append(p.delete, candidates[:room]...)
}

// surge makes new pods beside old ones, at once where the old one is not
// available, and deletes old ones whose successor is. Where no pod should be
// any more, an available one goes when enough others are there.
func (p *planner) surge(most, wanted int) {
	var candidates []string
	var leaving []*corev1.Pod
	surging, available := 0, 0
	for _, at := range p.places {
		if len(at.pods) == 0 {
			continue
		}
		updated, old, ok := p.split(at)
		if !ok {
			surging++
			continue
		}
		first := old
		if first == nil {
			first = updated
		}
		if first != nil && p.isAvailable(first) {
			available++
		}
		switch {
		case old == nil || !at.exists:
		case updated != nil && p.isAvailable(updated):
			p.delete = append(p.delete, old)
		case updated != nil:
			surging++
		case !at.start && p.isAvailable(old):
			leaving = append(leaving, old)
		case !at.start:
			p.delete = append(p.delete, old)
		case p.isAvailable(old):
			candidates = append(candidates, at.name)
		default:
			p.create = append(p.create, at.name)
		}
	}
	p.delete = append(p.delete, leaving[:min(max(available-wanted, 0), len(leaving))]...)
	p.create = append(p.create, candidates[:min(max(most-surging, 0), len(candidates))]...)
}
