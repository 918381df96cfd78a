package engine

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/runtime/cgroup"
)

// PodStats is what a pod uses.
type PodStats struct {
	PodUID          types.UID
	Namespace, Name string
	SandboxID       string
	Time            time.Time
	Usage           cgroup.Stats
	Containers      []ContainerStats
}

// ContainerStats is what a container uses.
type ContainerStats struct {
	ID, Name  string
	StartedAt time.Time
	Usage     cgroup.Stats
}

// Stats reads what running pods use from their cgroups. What ends meanwhile is left out.
func (e *Engine) Stats(ctx context.Context) ([]PodStats, error) {
	list, err := e.List(ctx)
	if err != nil {
		return nil, err
	}
	var all []PodStats
	for _, s := range list {
		p, err := e.pod(s.ID)
		if err != nil || !s.Ready {
			continue
		}
		usage, err := e.cgroup.Stats(p.rec.Cgroup)
		if err != nil {
			continue
		}
		stats := PodStats{PodUID: s.PodUID, Namespace: s.Namespace, Name: s.Name, SandboxID: s.ID, Time: usage.Time, Usage: usage}
		for _, c := range s.Containers {
			t, err := e.task(c.ID)
			if err != nil || c.State != Running {
				continue
			}
			if usage, err := e.cgroup.Stats(e.cgroupOf(t)); err == nil {
				stats.Containers = append(stats.Containers, ContainerStats{ID: c.ID, Name: c.Name, StartedAt: c.StartedAt, Usage: usage})
			}
		}
		all = append(all, stats)
	}
	return all, nil
}
