package podautoscaler

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/resource"

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

var (
	errNoPods    = errors.New("no pods returned by selector while calculating replica count")
	errNoSamples = errors.New("did not receive metrics for targeted pods (pods might be unready)")
)

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
		var r reading
		if n < len(o.readings) {
			r = o.readings[n]
		}
		size, metric, status, f := o.one(spec, r)
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

// one is the size that one metric asks for.
func (o observed) one(spec autoscalingv2.MetricSpec, r reading) (size int32, metric string, status autoscalingv2.MetricStatus, f failure) {
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
		s := spec.Pods
		value, size, err := o.ofPods(r, s)
		status.Pods = &autoscalingv2.PodsMetricStatus{Metric: s.Metric, Current: value}
		return size, "pods metric " + s.Metric.Name, status, failure{"FailedGetPodsMetric", "failed to get pods metric value", err}
	case autoscalingv2.ObjectMetricSourceType:
		s := spec.Object
		name, of := fmt.Sprintf("%s metric %s", s.DescribedObject.Kind, s.Metric.Name), "failed to get object metric value"
		if s.Target.Value == nil { // upstream's words
			name, of = fmt.Sprintf("external metric %s(%+v)", s.Metric.Name, s.Metric.Selector), of+fmt.Sprintf(": failed to get %s object metric", s.Metric.Name)
		}
		if r.err != nil {
			r.err = fmt.Errorf("unable to get metric %s on %s %s/%s: %w", s.Metric.Name, s.DescribedObject.Kind, o.autoscaler.Namespace, s.DescribedObject.Name, r.err)
		}
		value, size, err := o.ofAll(r, s.Target)
		status.Object = &autoscalingv2.ObjectMetricStatus{Metric: s.Metric, DescribedObject: s.DescribedObject, Current: value}
		return size, name, status, failure{"FailedGetObjectMetric", of, err}
	case autoscalingv2.ExternalMetricSourceType:
		s := spec.External
		of := fmt.Sprintf("failed to get %s external metric value: failed to get external metric %[1]s", s.Metric.Name)
		if s.Target.AverageValue != nil {
			of = fmt.Sprintf("failed to get %s external metric value: failed to get %[1]s external metric", s.Metric.Name)
		}
		if r.err != nil {
			r.err = fmt.Errorf("unable to get external metric %s/%s/%+v: %w", o.autoscaler.Namespace, s.Metric.Name, s.Metric.Selector, r.err)
		}
		value, size, err := o.ofAll(r, s.Target)
		status.External = &autoscalingv2.ExternalMetricStatus{Metric: s.Metric, Current: value}
		return size, fmt.Sprintf("external metric %s(%+v)", s.Metric.Name, s.Metric.Selector), status, failure{"FailedGetExternalMetric", of, err}
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
		return value, 0, errNoPods
	}
	samples := samplesOf(o.usage, name, container)
	if t.AverageValue != nil {
		size, mean, err := o.toward(t.AverageValue.MilliValue(), name, samples)
		value.AverageValue = quantity(name, mean)
		return value, size, err
	}
	pods := take(o.pods, samples, name, o.now)
	if len(samples) == 0 {
		return value, 0, errNoSamples
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
	size, err = propose(o.scale.Spec.Replicas, samples, pods, o.tolerance(), goal{
		ratio: func(s map[string]sample) (float64, error) {
			percent, _, err := utilization(s, requests)
			return float64(percent) / float64(wanted), err
		},
		full: func(pod string) int64 { return requests[pod] * int64(max(100, wanted)) / 100 },
	})
	return value, size, err
}

// toward is the size at which pods' samples would on average be what is wanted, and what they are now.
func (o observed) toward(wanted int64, name corev1.ResourceName, samples map[string]sample) (size int32, mean int64, err error) {
	pods := take(o.pods, samples, name, o.now)
	if len(samples) == 0 {
		return 0, 0, errNoSamples
	}
	mean = average(samples)
	size, err = propose(o.scale.Spec.Replicas, samples, pods, o.tolerance(), goal{
		ratio: func(s map[string]sample) (float64, error) { return float64(average(s)) / float64(wanted), nil },
		full:  func(string) int64 { return wanted },
	})
	return size, mean, err
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
