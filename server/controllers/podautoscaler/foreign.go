package podautoscaler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	customv1beta2 "k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	externalv1beta1 "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/pods"
	"bramble.dev/server/controllers/scales"
)

// Metrics of anything but pods' own resources come from APIs that others bring, such as an adapter for Prometheus or KEDA:
// custom.metrics.k8s.io and external.metrics.k8s.io.

// reading is what such an API says of one metric, in thousandths.
type reading struct {
	value int64             // of an object; of an external metric the sum of its values
	pods  map[string]sample // of a metric of pods
	err   error
}

// foreign says that a metric is of something beside the target's pods, so that it is known when there are none.
func foreign(m autoscalingv2.MetricSpec) bool {
	return m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
}

// Reading implements Targets.
func (t targets) Reading(ctx context.Context, namespace string, ofPods labels.Selector, m autoscalingv2.MetricSpec) (r reading) {
	switch m.Type {
	case autoscalingv2.PodsMetricSourceType:
		r.pods, r.err = t.pods(ctx, namespace, ofPods, m.Pods.Metric)
	case autoscalingv2.ObjectMetricSourceType:
		r.value, r.err = t.object(ctx, namespace, m.Object.DescribedObject, m.Object.Metric)
	case autoscalingv2.ExternalMetricSourceType:
		r.value, r.err = t.external(ctx, namespace, m.External.Metric)
	}
	return r
}

func (t targets) pods(ctx context.Context, namespace string, selector labels.Selector, m autoscalingv2.MetricIdentifier) (map[string]sample, error) {
	values, err := t.custom(ctx, m, []string{"namespaces", namespace, "pods", customv1beta2.AllObjects, m.Name}, selector)
	if err == nil && len(values) == 0 {
		err = errors.New("no metrics returned from custom metrics API")
	}
	out := map[string]sample{}
	for _, v := range values {
		out[v.DescribedObject.Name] = sample{value: v.Value.MilliValue(), at: v.Timestamp.Time}
	}
	return out, err
}

func (t targets) object(ctx context.Context, namespace string, ref autoscalingv2.CrossVersionObjectReference, m autoscalingv2.MetricIdentifier) (int64, error) {
	// Of namespaces only the autoscaler's own may be asked about, whatever the reference says.
	path := []string{"namespaces", namespace, "metrics", m.Name}
	if gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind); gvk.Group != "" || gvk.Kind != "Namespace" {
		resource, err := scales.Resource(ctx, t.client, gvk.GroupVersion(), gvk.Kind)
		if err != nil {
			return 0, fmt.Errorf("unable to fetch metrics from custom metrics API: unable to map kind %s to resource: %w", gvk.GroupKind(), err)
		}
		path = []string{"namespaces", namespace, resource.GroupResource().String(), ref.Name, m.Name}
	}
	values, err := t.custom(ctx, m, path, nil)
	if err == nil && len(values) != 1 {
		err = fmt.Errorf("unable to fetch metrics from custom metrics API: the custom metrics API server returned %d results when we asked for exactly one", len(values))
	}
	if err != nil {
		return 0, err
	}
	return values[0].Value.MilliValue(), nil
}

// custom asks custom.metrics.k8s.io in the newest version that is there. What is read of their values is the same in both.
func (t targets) custom(ctx context.Context, m autoscalingv2.MetricIdentifier, path []string, objects labels.Selector) ([]customv1beta2.MetricValue, error) {
	selector, err := metav1.LabelSelectorAsSelector(m.Selector)
	if err != nil {
		return nil, err
	}
	var list customv1beta2.MetricValueList
	version, err := t.customVersion(ctx)
	if err == nil {
		parameters := map[string]string{"metricLabelSelector": selector.String()}
		if objects != nil {
			parameters["labelSelector"] = objects.String()
		}
		err = t.ask(ctx, append([]string{"/apis", customv1beta2.GroupName, version}, path...), parameters, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from custom metrics API: %w", err)
	}
	return list.Items, nil
}

func (t targets) customVersion(ctx context.Context) (string, error) {
	var group metav1.APIGroup
	err := t.ask(ctx, []string{"/apis", customv1beta2.GroupName}, nil, &group)
	if err != nil && !apierrors.IsNotFound(err) {
		return "", err
	}
	for _, version := range []string{"v1beta2", "v1beta1"} {
		if slices.ContainsFunc(group.Versions, func(v metav1.GroupVersionForDiscovery) bool { return v.Version == version }) {
			return version, nil
		}
	}
	return "", fmt.Errorf("no custom metrics API (%s) registered", customv1beta2.GroupName)
}

func (t targets) external(ctx context.Context, namespace string, m autoscalingv2.MetricIdentifier) (int64, error) {
	selector, err := metav1.LabelSelectorAsSelector(m.Selector)
	if err != nil {
		return 0, err
	}
	var list externalv1beta1.ExternalMetricValueList
	err = t.ask(ctx, []string{"/apis", externalv1beta1.GroupName, externalv1beta1.SchemeGroupVersion.Version, "namespaces", namespace, m.Name},
		map[string]string{"labelSelector": selector.String()}, &list)
	switch {
	case apierrors.IsNotFound(err):
		return 0, fmt.Errorf("unable to fetch metrics from external metrics API: %w", apierrors.NewGenericServerResponse(http.StatusNotFound, "get", schema.GroupResource{Group: externalv1beta1.GroupName, Resource: m.Name}, "", "", 0, false))
	case err != nil:
		return 0, fmt.Errorf("unable to fetch metrics from external metrics API: %w", err)
	case len(list.Items) == 0:
		return 0, errors.New("no metrics returned from external metrics API")
	}
	sum := int64(0)
	for _, v := range list.Items {
		if sum += v.Value.MilliValue(); sum < 0 && v.Value.Sign() > 0 {
			return math.MaxInt64, nil // more than can be counted
		}
	}
	return sum, nil
}

func (t targets) ask(ctx context.Context, path []string, parameters map[string]string, into any) error {
	r := t.client.CoreV1().RESTClient().Get().AbsPath(path...).SetHeader("Accept", "application/json")
	for name, value := range parameters {
		r.Param(name, value)
	}
	body, err := r.DoRaw(ctx)
	if err != nil {
		return scales.Said(body, err)
	}
	return json.Unmarshal(body, into)
}

// ofPods is the size at which a pod's metric would on average be what the target says.
func (o observed) ofPods(r reading, s *autoscalingv2.PodsMetricSource) (value autoscalingv2.MetricValueStatus, size int32, err error) {
	if r.err != nil {
		return value, 0, fmt.Errorf("unable to get metric %s: %w", s.Metric.Name, r.err)
	}
	if len(o.pods) == 0 {
		return value, 0, errNoPods
	}
	size, mean, err := o.toward(s.Target.AverageValue.MilliValue(), "", r.pods)
	value.AverageValue = quantity("", mean)
	return value, size, err
}

// ofAll is the size at which a value of all pods together would be what the target says: as a whole, or for each of them.
func (o observed) ofAll(r reading, t autoscalingv2.MetricTarget) (value autoscalingv2.MetricValueStatus, size int32, err error) {
	if r.err != nil {
		return value, 0, r.err
	}
	used := float64(r.value)
	if t.Value != nil {
		value.Value = quantity("", r.value)
		size, err = o.times(used / float64(t.Value.MilliValue()))
		return value, size, err
	}
	wanted, pods := float64(t.AverageValue.MilliValue()), o.scale.Status.Replicas
	size = pods
	if !o.tolerance().holds(used / (wanted * float64(pods))) {
		size = clamp(math.Ceil(used / wanted))
	}
	value.AverageValue = quantity("", int64(math.Ceil(used/float64(max(pods, 1)))))
	return value, size, nil
}

// times is so many times the pods that are ready; if there are to be none, so many.
func (o observed) times(ratio float64) (int32, error) {
	current := o.scale.Spec.Replicas
	if current == 0 {
		return clamp(math.Ceil(ratio)), nil
	}
	if o.tolerance().holds(ratio) {
		return current, nil
	}
	if len(o.pods) == 0 {
		return 0, fmt.Errorf("unable to calculate ready pods: %w", errNoPods)
	}
	ready := 0
	for _, p := range o.pods {
		if p.Status.Phase == corev1.PodRunning && pods.IsReady(p) {
			ready++
		}
	}
	return clamp(math.Ceil(ratio * float64(ready))), nil
}
