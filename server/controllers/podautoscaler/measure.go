package podautoscaler

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

// measured is the largest size that a metric of an autoscaler asks for.
type measured struct {
	size     int32
	metric   string // that asks for it
	statuses []autoscalingv2.MetricStatus
	unusable bool // there is no size: no metric is known, or one that might forbid to shrink is not
}

// measure asks each metric for the size that it would have. What goes wrong is
// told in conditions and events.
func (p *plan) measure(o observed) measured {
	specs := o.autoscaler.Spec.Metrics
	m := measured{unusable: true}
	if o.selectable != nil {
		event := o.reason
		condition := o.selectable.Error()
		if o.scale.Status.Selector == "" {
			event, condition = "SelectorRequired", "the HPA target's scale is missing a selector"
		}
		p.warn(event, "%v", o.selectable)
		p.condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, o.reason, "%s", condition)
		p.warn("FailedComputeMetricsReplicas", "%v", o.selectable)
		return m
	}
	m.statuses = make([]autoscalingv2.MetricStatus, len(specs))
	var first failure
	invalid := 0
	for n, spec := range specs {
		size, metric, status, f := o.one(spec)
		if f.err != nil {
			p.warn(f.reason, "%v", f.err)
			if invalid++; invalid == 1 {
				first = f
			}
			continue
		}
		m.statuses[n] = status
		if m.metric == "" || size > m.size {
			m.size, m.metric = size, metric
		}
	}
	if invalid == len(specs) || invalid > 0 && m.size < o.scale.Spec.Replicas {
		p.condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, first.reason, "the HPA was unable to compute the replica count: %v", first.err)
		p.warn("FailedComputeMetricsReplicas", "invalid metrics (%d invalid out of %d), first error is: %s: %v", invalid, len(specs), first.of, first.err)
		return m
	}
	p.condition(autoscalingv2.ScalingActive, corev1.ConditionTrue, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from %s", m.metric)
	m.unusable = false
	return m
}

// failure is why a metric is not known: the reason is that of its event and condition.
type failure struct {
	reason, of string
	err        error
}

// one is the size that one metric asks for. Metrics of anything but pods' own
// resources come from APIs that others bring (custom.metrics.k8s.io and
// external.metrics.k8s.io); these are not asked, whether there are any or not.
func (o observed) one(spec autoscalingv2.MetricSpec) (size int32, metric string, status autoscalingv2.MetricStatus, f failure) {
	status.Type = spec.Type
	switch spec.Type {
	case autoscalingv2.ResourceMetricSourceType:
		r := spec.Resource
		value, size, err := o.resource(r.Name, "", r.Target)
		status.Resource = &autoscalingv2.ResourceMetricStatus{Name: r.Name, Current: value}
		return size, named(r.Name, "", r.Target), status, failure{"FailedGetResourceMetric", fmt.Sprintf("failed to get %s resource metric value", r.Name), err}
	case autoscalingv2.ContainerResourceMetricSourceType:
		r := spec.ContainerResource
		value, size, err := o.resource(r.Name, r.Container, r.Target)
		status.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{Name: r.Name, Container: r.Container, Current: value}
		return size, named(r.Name, " container", r.Target), status, failure{"FailedGetContainerResourceMetric", fmt.Sprintf("failed to get %s container metric value", r.Container), err}
	case autoscalingv2.PodsMetricSourceType:
		return 0, "", status, failure{"FailedGetPodsMetric", "failed to get pods metric value",
			fmt.Errorf("unable to get metric %s: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered", spec.Pods.Metric.Name)}
	case autoscalingv2.ObjectMetricSourceType:
		d := spec.Object.DescribedObject
		return 0, "", status, failure{"FailedGetObjectMetric", "failed to get object metric value",
			fmt.Errorf("unable to get metric %s on %s %s/%s: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered", spec.Object.Metric.Name, d.Kind, o.autoscaler.Namespace, d.Name)}
	case autoscalingv2.ExternalMetricSourceType:
		e := spec.External.Metric
		return 0, "", status, failure{"FailedGetExternalMetric", fmt.Sprintf("failed to get %s external metric value", e.Name),
			fmt.Errorf("unable to get external metric %s/%s/%s: unable to fetch metrics from external metrics API: no external metrics API (external.metrics.k8s.io) registered", o.autoscaler.Namespace, e.Name, metav1.FormatLabelSelector(e.Selector))}
	}
	return 0, "", status, failure{"InvalidMetricSourceType", "invalid metric", fmt.Errorf("unknown metric source type %q", spec.Type)}
}

// named is how a resource's metric is called in conditions and events.
func named(name corev1.ResourceName, container string, t autoscalingv2.MetricTarget) string {
	if t.AverageValue != nil {
		return fmt.Sprintf("%s resource", name)
	}
	return fmt.Sprintf("%s%s resource utilization (percentage of request)", name, container)
}

// resource is the size at which pods, or one container of each, would use what the target says.
func (o observed) resource(name corev1.ResourceName, container string, t autoscalingv2.MetricTarget) (value autoscalingv2.MetricValueStatus, size int32, err error) {
	if t.AverageValue == nil && t.AverageUtilization == nil {
		return value, 0, errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	}
	defer func() {
		if err != nil && t.AverageValue != nil {
			err = fmt.Errorf("failed to get %s usage: %w", name, err)
		} else if err != nil {
			err = fmt.Errorf("failed to get %s utilization: %w", name, err)
		}
	}()
	if o.unmeasured != nil {
		return value, 0, fmt.Errorf("unable to get metrics for resource %s: %w", name, o.unmeasured)
	}
	if len(o.pods) == 0 {
		return value, 0, errors.New("no pods returned by selector while calculating replica count")
	}
	samples := samplesOf(o.usage, name, container)
	pods := take(o.pods, samples, name, o.now)
	if len(samples) == 0 {
		return value, 0, errors.New("did not receive metrics for targeted pods (pods might be unready)")
	}
	current, tolerated := o.scale.Spec.Replicas, o.tolerance()
	if t.AverageValue != nil {
		wanted := t.AverageValue.MilliValue()
		value.AverageValue = quantity(name, average(samples))
		size, err = propose(current, samples, pods, tolerated, goal{
			ratio: func(s map[string]sample) (float64, error) { return float64(average(s)) / float64(wanted), nil },
			full:  func(string) int64 { return wanted },
		})
		return value, size, err
	}
	requests, err := requestsOf(o.pods, container, name)
	if err != nil {
		return value, 0, err
	}
	percent, mean, err := utilization(samples, requests)
	if err != nil {
		return value, 0, err
	}
	value.AverageUtilization, value.AverageValue = &percent, quantity(name, mean)
	wanted := *t.AverageUtilization
	size, err = propose(current, samples, pods, tolerated, goal{
		ratio: func(s map[string]sample) (float64, error) {
			percent, _, err := utilization(s, requests)
			return float64(percent) / float64(wanted), err
		},
		full: func(pod string) int64 { return requests[pod] * int64(max(100, wanted)) / 100 },
	})
	return value, size, err
}

func (o observed) tolerance() tolerance {
	t := tolerance{defaultTolerance, defaultTolerance}
	b := o.autoscaler.Spec.Behavior
	if b != nil && b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
		t.grow = b.ScaleUp.Tolerance.AsApproximateFloat64()
	}
	if b != nil && b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
		t.shrink = b.ScaleDown.Tolerance.AsApproximateFloat64()
	}
	return t
}

// quantity is written as metrics.k8s.io writes it.
func quantity(name corev1.ResourceName, thousandths int64) *resource.Quantity {
	if name == corev1.ResourceMemory {
		return resource.NewMilliQuantity(thousandths, resource.BinarySI)
	}
	return resource.NewMilliQuantity(thousandths, resource.DecimalSI)
}
