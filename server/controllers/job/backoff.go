package job

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/pods"
)

const (
	firstBackoff = 10 * time.Second
	lastBackoff  = 10 * time.Minute
)

// backoff remembers failures since the last success, so that a failing Job's
// pods are made ever more slowly. It is lost with the process, and then the
// next failure is the first again.
type backoff struct {
	failures int32
	last     time.Time
}

// after adds pods that ended since.
func (b backoff) after(succeeded, failed []*corev1.Pod) backoff {
	var success time.Time
	for _, p := range succeeded {
		if at := endOf(p); at.After(success) {
			success = at
		}
	}
	if len(succeeded) > 0 {
		b = backoff{}
	}
	for _, p := range failed {
		at := endOf(p)
		if len(succeeded) > 0 && !at.After(success) {
			continue
		}
		b.failures++
		if at.After(b.last) {
			b.last = at
		}
	}
	return b
}

// left is how long no pod is to be made yet.
func (b backoff) left(now time.Time) time.Duration {
	if b.failures == 0 {
		return 0
	}
	wait := firstBackoff
	for i := int32(1); i < b.failures && wait < lastBackoff; i++ {
		wait *= 2
	}
	return max(min(wait, lastBackoff)-now.Sub(b.last), 0)
}

// endOf is when a pod ended: its last container, or when it was no longer
// ready, or was told to go; its creation is the last resort.
func endOf(p *corev1.Pod) time.Time {
	if at, ok := lastExit(p); ok {
		return at
	}
	if c := pods.Condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if p.DeletionTimestamp != nil {
		at := p.DeletionTimestamp.Time
		if grace := p.DeletionGracePeriodSeconds; grace != nil {
			at = at.Add(-time.Duration(*grace) * time.Second)
		}
		return at
	}
	return p.CreationTimestamp.Time
}

// lastExit is when the last container ended, if all have. Sidecars end after the others.
func lastExit(p *corev1.Pod) (at time.Time, ok bool) {
	statuses := slices.Clone(p.Status.ContainerStatuses)
	for _, c := range p.Status.InitContainerStatuses {
		if slices.ContainsFunc(p.Spec.InitContainers, func(i corev1.Container) bool {
			return i.Name == c.Name && i.RestartPolicy != nil && *i.RestartPolicy == corev1.ContainerRestartPolicyAlways
		}) {
			statuses = append(statuses, c)
		}
	}
	for _, c := range statuses {
		if c.State.Terminated == nil || c.State.Terminated.FinishedAt.IsZero() {
			return time.Time{}, false
		}
		if c.State.Terminated.FinishedAt.After(at) {
			at = c.State.Terminated.FinishedAt.Time
		}
	}
	return at, len(statuses) > 0
}
