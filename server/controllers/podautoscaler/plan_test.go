package podautoscaler

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

var start = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func ptr[T any](v T) *T { return &v }

// cpu is a metric: percent of the request, or millicores if it ends in m.
func cpu(target string) autoscalingv2.MetricSpec {
	r := &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU}
	if strings.HasSuffix(target, "m") {
		r.Target = autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr(resource.MustParse(target))}
	} else {
		var percent int32
		fmt.Sscan(target, &percent)
		r.Target = autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent}
	}
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: r}
}

func autoscaler(least, most int32, metrics ...autoscalingv2.MetricSpec) *autoscalingv2.HorizontalPodAutoscaler {
	return &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Generation: 1},
		Spec:       autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: &least, MaxReplicas: most, Metrics: metrics},
	}
}

// pod requests 100m and has been ready for an hour.
func pod(n int, change ...func(*corev1.Pod)) *corev1.Pod {
	long := metav1.NewTime(start.Add(-time.Hour))
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("web-%d", n)},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")},
		}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &long, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: long},
		}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func pending(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }
func going(p *corev1.Pod)   { p.DeletionTimestamp = &metav1.Time{Time: start} }
func starts(p *corev1.Pod) {
	p.Status.StartTime = &metav1.Time{Time: start.Add(-time.Minute)}
	p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(start.Add(-time.Second))
}
func asksNothing(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = nil }

// uses is what a pod uses in millicores; negative: it is not known.
func uses(n int, millis int64) metricsv1beta1.PodMetrics {
	return metricsv1beta1.PodMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("web-%d", n)}, Timestamp: metav1.NewTime(start), Window: metav1.Duration{Duration: 15 * time.Second},
		Containers: []metricsv1beta1.ContainerMetrics{{Name: "main", Usage: corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(millis, resource.DecimalSI)}}},
	}
}

func observe(a *autoscalingv2.HorizontalPodAutoscaler, current int32, pods []*corev1.Pod, used ...int64) observed {
	o := observed{autoscaler: a, scale: &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: current}, Status: autoscalingv1.ScaleStatus{Replicas: current, Selector: "app=web"}}, pods: pods, now: start}
	for n, u := range used {
		if u >= 0 {
			o.usage = append(o.usage, uses(n, u))
		}
	}
	return o
}

// told is what a plan says, in a line a thing.
func (p plan) told() string {
	var b strings.Builder
	fmt.Fprintf(&b, "size %d", p.size)
	if p.resize {
		fmt.Fprintf(&b, ": %s", p.why)
	}
	for _, c := range p.status.Conditions {
		fmt.Fprintf(&b, "\n%s %s %s", c.Type, c.Status, c.Reason)
	}
	for _, e := range p.events {
		fmt.Fprintf(&b, "\nevent %s: %s", e.reason, e.message)
	}
	return b.String()
}

func target(whole, each string) (t autoscalingv2.MetricTarget) {
	if whole != "" {
		t.Type, t.Value = autoscalingv2.ValueMetricType, ptr(resource.MustParse(whole))
	} else {
		t.Type, t.AverageValue = autoscalingv2.AverageValueMetricType, ptr(resource.MustParse(each))
	}
	return t
}

func external(whole, each string) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: "queue"}, Target: target(whole, each)}}
}

func ofObject(whole, each string) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: "hits"}, Target: target(whole, each),
		DescribedObject: autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Service", Name: "web"}}}
}

func ofPods(each string) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: "requests"}, Target: target("", each)}}
}

func TestDecide(t *testing.T) {
	ready := func(n int) (out []*corev1.Pod) {
		for i := range n {
			out = append(out, pod(i))
		}
		return out
	}
	read := func(o observed, r ...reading) observed { o.readings = r; return o }
	asleep := func(a *autoscalingv2.HorizontalPodAutoscaler) *autoscalingv2.HorizontalPodAutoscaler {
		a.Status.Conditions = []autoscalingv2.HorizontalPodAutoscalerCondition{{Type: autoscalingv2.ScaledToZero, Status: corev1.ConditionTrue}}
		return a
	}
	away := reading{err: errors.New("no answer")}
	container := autoscalingv2.MetricSpec{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricSource{
		Name: corev1.ResourceCPU, Container: "main", Target: autoscalingv2.MetricTarget{AverageUtilization: ptr(int32(50))},
	}}
	const active, able, within = "\nAbleToScale True ReadyForNewScale\nScalingActive True ValidMetricFound", "\nAbleToScale True ", "\nScalingLimited False DesiredWithinRange"
	const none = "failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API"
	for _, c := range []struct {
		name string
		o    observed
		want string
	}{
		{"busy", observe(autoscaler(1, 10, cpu("50")), 2, ready(2), 90, 110), "size 4: cpu resource utilization (percentage of request) above target" + active + within},
		{"within the tolerance", observe(autoscaler(1, 10, cpu("50")), 2, ready(2), 52, 56), "size 2" + active + within},
		{"idle", observe(autoscaler(1, 10, cpu("50")), 4, ready(4), 10, 10, 10, 10), "size 4\nAbleToScale True ScaleDownStabilized\nScalingActive True ValidMetricFound" + within},
		{"a value", observe(autoscaler(1, 10, cpu("50m")), 2, ready(2), 100, 50), "size 3: cpu resource above target" + active + within},
		{"a container", observe(autoscaler(1, 10, container), 1, ready(1), 100), "size 2: cpu container resource utilization (percentage of request) above target" + active + within},
		{"too many", observe(autoscaler(1, 3, cpu("50")), 2, ready(2), 100, 100), "size 3: cpu resource utilization (percentage of request) above target" + active + "\nScalingLimited True TooManyReplicas"},
		{"too fast", observe(autoscaler(1, 100, cpu("10")), 3, ready(3), 100, 100, 100), "size 6: cpu resource utilization (percentage of request) above target" + active + "\nScalingLimited True ScaleUpLimit"},
		{"above the maximum", observe(autoscaler(1, 3, cpu("50")), 5, nil), "size 3: Current number of replicas above Spec.MaxReplicas" + able + "SucceededGetScale"},
		{"below the minimum", observe(autoscaler(2, 3, cpu("50")), 1, nil), "size 2: Current number of replicas below Spec.MinReplicas" + able + "SucceededGetScale"},
		{"switched off", observe(autoscaler(1, 3, cpu("50")), 0, nil), "size 0" + able + "SucceededGetScale\nScalingActive False ScalingDisabled"},
		{"a pod that starts counts as idle", observe(autoscaler(1, 10, cpu("50")), 2, []*corev1.Pod{pod(0), pod(1, starts)}, 120, 1000), "size 3: cpu resource utilization (percentage of request) above target" + active + within},
		{"a pod that waits counts as idle", observe(autoscaler(1, 10, cpu("50")), 2, []*corev1.Pod{pod(0), pod(1, pending)}, 90), "size 2" + active + within},
		{"a pod of which nothing is known counts as busy when the others are idle", observe(autoscaler(1, 10, cpu("50")), 2, ready(2), 10), "size 2" + active + within},
		{"pods that go are nobody", observe(autoscaler(1, 10, cpu("50")), 1, []*corev1.Pod{pod(0), pod(1, going)}, 100, 1000), "size 2: cpu resource utilization (percentage of request) above target" + active + within},
		{"the largest of two", observe(autoscaler(1, 10, cpu("50"), cpu("20m")), 1, ready(1), 60), "size 3: cpu resource above target" + active + within},
		{"no request", observe(autoscaler(1, 10, cpu("50")), 1, []*corev1.Pod{pod(0, asksNothing)}, 60), "size 1" + able + "SucceededGetScale\nScalingActive False FailedGetResourceMetric\nevent FailedGetResourceMetric: failed to get cpu utilization: missing request for cpu in container main of Pod web-0\nevent FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: failed to get cpu utilization: missing request for cpu in container main of Pod web-0"},
		{"one unknown, the other says more", read(observe(autoscaler(1, 10, external("10", ""), cpu("50")), 1, ready(1), 100), away), "size 2: cpu resource utilization (percentage of request) above target" + active + within + "\nevent FailedGetExternalMetric: unable to get external metric default/queue/nil: no answer"},
		{"of pods", read(observe(autoscaler(1, 10, ofPods("10")), 2, ready(2)), reading{pods: map[string]sample{"web-0": {value: 12000}, "web-1": {value: 16000}}}), "size 3: pods metric requests above target" + active + within},
		{"of pods, of which one is not known", read(observe(autoscaler(1, 10, ofPods("10")), 2, ready(2)), reading{pods: map[string]sample{"web-0": {value: 12000}}}), "size 2" + active + within},
		{"of pods, unknown", read(observe(autoscaler(1, 10, ofPods("10")), 2, ready(2)), away), "size 2" + able + "SucceededGetScale\nScalingActive False FailedGetPodsMetric\nevent FailedGetPodsMetric: unable to get metric requests: no answer\nevent FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: failed to get pods metric value: unable to get metric requests: no answer"},
		{"of an object", read(observe(autoscaler(1, 10, ofObject("10", "")), 2, ready(2)), reading{value: 15000}), "size 3: Service metric hits above target" + active + within},
		{"of an object, for each pod", read(observe(autoscaler(1, 10, ofObject("", "10")), 2, ready(2)), reading{value: 25000}), "size 3: external metric hits(nil) above target" + active + within},
		{"of an object, unknown", read(observe(autoscaler(1, 10, ofObject("", "10")), 2, ready(2)), away), "size 2" + able + "SucceededGetScale\nScalingActive False FailedGetObjectMetric\nevent FailedGetObjectMetric: unable to get metric hits on Service default/web: no answer\nevent FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: failed to get object metric value: failed to get hits object metric: unable to get metric hits on Service default/web: no answer"},
		{"external", read(observe(autoscaler(1, 10, external("10", "")), 2, ready(2)), reading{value: 15000}), "size 3: external metric queue(nil) above target" + active + within},
		{"external, within the tolerance", read(observe(autoscaler(1, 10, external("10", "")), 2, ready(2)), reading{value: 10500}), "size 2" + active + within},
		{"external, counted by ready pods", read(observe(autoscaler(1, 10, external("10", "")), 2, []*corev1.Pod{pod(0), pod(1, pending)}), reading{value: 25000}), "size 3: external metric queue(nil) above target" + active + within},
		{"external, for each pod", read(observe(autoscaler(1, 10, external("", "10")), 2, ready(2)), reading{value: 25000}), "size 3: external metric queue(nil) above target" + active + within},
		{"to zero", read(observe(autoscaler(0, 10, external("", "10")), 1, ready(1)), reading{}), "size 1\nAbleToScale True ScaleDownStabilized" + "\nScalingActive True ValidMetricFound" + within},
		{"from zero", read(observe(asleep(autoscaler(0, 10, external("", "10"))), 0, nil), reading{value: 25000}), "size 3: external metric queue(nil) above target\nScaledToZero True \nAbleToScale True ReadyForNewScale\nScalingActive True ValidMetricFound" + within},
		{"from zero, as a whole", read(observe(asleep(autoscaler(0, 10, external("10", ""))), 0, nil), reading{value: 15000}), "size 2: external metric queue(nil) above target\nScaledToZero True \nAbleToScale True ReadyForNewScale\nScalingActive True ValidMetricFound" + within},
		{"stays at zero", read(observe(asleep(autoscaler(0, 10, external("", "10"))), 0, nil), reading{}), "size 0\nScaledToZero True \nAbleToScale True ReadyForNewScale\nScalingActive True ValidMetricFound" + within},
		{"not to stay at zero any more", read(observe(asleep(autoscaler(2, 10, external("", "10"))), 0, nil), reading{}), "size 2: Current number of replicas below Spec.MinReplicas\nScaledToZero True \nAbleToScale True ReadyForNewScale\nScalingActive True ValidMetricFound\nScalingLimited True TooFewReplicas"},
		{"zero by somebody else", read(observe(autoscaler(0, 10, external("", "10")), 0, nil), reading{value: 25000}), "size 0" + able + "SucceededGetScale\nScalingActive False ScalingDisabled"},
		{"zero, and pods alone to measure", observe(asleep(autoscaler(0, 10, cpu("50"))), 0, nil), "size 0\nScaledToZero True \nAbleToScale True SucceededGetScale\nScalingActive False ScalingDisabled"},
		{"no metrics", func() observed {
			o := observe(autoscaler(1, 10, cpu("50")), 1, ready(1))
			o.unmeasured = errors.New("no metrics returned from resource metrics API")
			return o
		}(), "size 1" + able + "SucceededGetScale\nScalingActive False FailedGetResourceMetric\nevent FailedGetResourceMetric: " + none + "\nevent FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: " + none},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := decide(c.o).told(); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestPolicies(t *testing.T) {
	h := history{ups: []stamped{{2, start.Add(-30 * time.Second)}}, downs: []stamped{{1, start.Add(-50 * time.Second)}}}
	policy := func(choose autoscalingv2.ScalingPolicySelect, all ...autoscalingv2.HPAScalingPolicy) rules {
		return rules{choose: choose, policies: all}
	}
	pods := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 60}
	percent := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 50, PeriodSeconds: 10}
	for _, c := range []struct {
		choose      autoscalingv2.ScalingPolicySelect
		most, least int32
	}{
		{autoscalingv2.MaxChangePolicySelect, 15, 5}, // from 9 a minute ago by 4; from 10 ten seconds ago by half
		{autoscalingv2.MinChangePolicySelect, 13, 5},
		{autoscalingv2.DisabledPolicySelect, 10, 10},
	} {
		r := policy(c.choose, pods, percent)
		if most, least := h.most(r, 10, start), h.least(r, 10, start); most != c.most || least != c.least {
			t.Errorf("%s: from %d to %d, want %d to %d", c.choose, least, most, c.least, c.most)
		}
	}
}

// What cannot be written is told, and forgotten by no one.
func TestFailedRescale(t *testing.T) {
	a := autoscaler(1, 3)
	p := decide(observe(a, 5, nil))
	p.resized(a, 5, errors.New("no"))
	if got := p.told(); !strings.Contains(got, "AbleToScale False FailedUpdateScale") || !strings.Contains(got, "event FailedRescale: New size: 3; reason: Current number of replicas above Spec.MaxReplicas; error: no") {
		t.Error(got)
	}
	if p.status.LastScaleTime != nil || p.status.DesiredReplicas != 0 {
		t.Errorf("the status says that it was done: %+v", p.status)
	}
}
