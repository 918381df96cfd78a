package podautoscaler

import (
	"errors"
	"fmt"
	"math"
	"time"

	"k8s.io/component-helpers/resource"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/pods"
)

const (
	// startingUp is how long a pod's use of CPU may come from its start.
	startingUp = 5 * time.Minute
	// firstReadiness is how soon after a start a pod that is not ready counts as
	// never having been.
	firstReadiness = 30 * time.Second
)

// sample is what a pod uses of one resource, in thousandths.
type sample struct {
	value  int64
	at     time.Time
	window time.Duration
}

// samplesOf takes one resource out of metrics: of one container, or of all of a
// pod. A pod of which part is not known is not in it.
func samplesOf(all []metricsv1beta1.PodMetrics, name corev1.ResourceName, container string) map[string]sample {
	out := map[string]sample{}
	for _, m := range all {
		s := sample{at: m.Timestamp.Time, window: m.Window.Duration}
		known := false
		for _, c := range m.Containers {
			if container != "" && c.Name != container {
				continue
			}
			q, ok := c.Usage[name]
			if known = ok; !ok {
				break
			}
			s.value += q.MilliValue()
		}
		if known {
			out[m.Name] = s
		}
	}
	return out
}

// census sorts pods by what their samples are worth.
type census struct {
	ready            int
	unready, missing []string
}

// take counts the pods, and takes from the samples those that say nothing.
func take(all []*corev1.Pod, samples map[string]sample, name corev1.ResourceName, now time.Time) census {
	var c census
	for _, p := range all {
		s, known := samples[p.Name]
		switch {
		case p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed:
			delete(samples, p.Name)
		case p.Status.Phase == corev1.PodPending || known && name == corev1.ResourceCPU && starting(p, s, now):
			c.unready = append(c.unready, p.Name)
			delete(samples, p.Name)
		case !known:
			c.missing = append(c.missing, p.Name)
		default:
			c.ready++
		}
	}
	return c
}

// starting says that a pod's use of CPU is, or may be, that of its start.
func starting(p *corev1.Pod, s sample, now time.Time) bool {
	ready := pods.Condition(p, corev1.PodReady)
	if ready == nil || p.Status.StartTime == nil {
		return true
	}
	start, changed, is := p.Status.StartTime.Time, ready.LastTransitionTime.Time, ready.Status
	if start.Add(startingUp).After(now) {
		return is == corev1.ConditionFalse || s.at.Before(changed.Add(s.window))
	}
	return is == corev1.ConditionFalse && start.Add(firstReadiness).After(changed)
}

// goal is a target for the use of a resource.
type goal struct {
	// ratio is the use as a multiple of what is wanted.
	ratio func(samples map[string]sample) (float64, error)
	// full is what a pod of which nothing is known uses, when less is needed.
	full func(pod string) int64
}

// tolerance is how far a ratio may be from one.
type tolerance struct{ grow, shrink float64 }

func (t tolerance) holds(ratio float64) bool { return 1-t.shrink <= ratio && ratio <= 1+t.grow }

// propose is the size at which pods would use what is wanted. Pods of which
// nothing is known count so that they slow the change down, and turn it never.
func propose(current int32, samples map[string]sample, c census, t tolerance, g goal) (int32, error) {
	ratio, err := g.ratio(samples)
	if err != nil {
		return 0, err
	}
	unready := len(c.unready) > 0 && ratio > 1
	if !unready && len(c.missing) == 0 {
		if t.holds(ratio) {
			return current, nil
		}
		return clamp(math.Ceil(ratio * float64(c.ready))), nil
	}
	for _, pod := range c.missing {
		if ratio < 1 {
			samples[pod] = sample{value: g.full(pod)}
		} else if ratio > 1 {
			samples[pod] = sample{}
		}
	}
	if unready {
		for _, pod := range c.unready {
			samples[pod] = sample{}
		}
	}
	again, err := g.ratio(samples)
	if err != nil {
		return 0, err
	}
	if t.holds(again) || ratio < 1 && again > 1 || ratio > 1 && again < 1 {
		return current, nil
	}
	size := clamp(math.Ceil(again * float64(len(samples))))
	if again < 1 && size > current || again > 1 && size < current {
		return current, nil
	}
	return size, nil
}

// average is the mean use of a pod.
func average(samples map[string]sample) int64 {
	sum := int64(0)
	for _, s := range samples {
		sum += s.value
	}
	return sum / int64(max(len(samples), 1))
}

// utilization is the use in percent of what was requested, and of one pod.
func utilization(samples map[string]sample, requests map[string]int64) (percent int32, mean int64, err error) {
	var used, requested, n int64
	for pod, s := range samples {
		if r, ok := requests[pod]; ok {
			used, requested, n = used+s.value, requested+r, n+1
		}
	}
	if requested == 0 {
		return 0, 0, errors.New("no metrics returned matched known pods")
	}
	return int32(used * 100 / requested), used / n, nil
}

// requestsOf is what pods request of a resource, in thousandths: as a whole, or
// for one container.
func requestsOf(all []*corev1.Pod, container string, name corev1.ResourceName) (map[string]int64, error) {
	out := map[string]int64{}
	for _, p := range all {
		if container == "" && resource.IsPodLevelRequestsSet(p) {
			q, ok := resource.PodRequests(p, resource.PodResourcesOptions{})[name]
			if !ok {
				return nil, fmt.Errorf("missing pod-level request for %s in Pod %s", name, p.Name)
			}
			out[p.Name] = q.MilliValue()
			continue
		}
		found := container == ""
		for _, c := range running(p) {
			if container != "" && c.Name != container {
				continue
			}
			found = true
			q, ok := c.Resources.Requests[name]
			if !ok {
				return nil, fmt.Errorf("missing request for %s in container %s of Pod %s", name, c.Name, p.Name)
			}
			out[p.Name] += q.MilliValue()
		}
		if !found {
			return nil, fmt.Errorf("container %s not found in Pod %s", container, p.Name)
		}
	}
	return out, nil
}

// running are the containers that run for as long as the pod does.
func running(p *corev1.Pod) []corev1.Container {
	all := append([]corev1.Container{}, p.Spec.Containers...)
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			all = append(all, c)
		}
	}
	return all
}
