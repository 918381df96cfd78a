package podautoscaler

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
)

// What is asked, and how answers are read, of the two APIs that others bring; they are aggregated servers in a cluster.
func TestReading(t *testing.T) {
	answers := map[string]string{ // by path and query
		"/apis/custom.metrics.k8s.io": `{"versions":[{"version":"v1beta1"},{"version":"v1beta2"}]}`,
		"/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/pods/*/requests?labelSelector=app%3Dweb&metricLabelSelector=": `{"items":[
			{"describedObject":{"name":"web-0"},"timestamp":"2026-01-01T00:00:00Z","value":"1500m"},{"describedObject":{"name":"web-1"},"timestamp":"2026-01-01T00:00:00Z","value":"2"}]}`,
		"/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/services/web/hits?metricLabelSelector=verb%3DGET":                    `{"items":[{"value":"7"}]}`,
		"/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/ingresses.networking.k8s.io/web/hits?metricLabelSelector=verb%3DGET": `{"items":[]}`,
		"/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/metrics/hits?metricLabelSelector=":                                   `{"items":[{"value":"8"}]}`,
		"/api/v1":                    `{"resources":[{"name":"services","kind":"Service"}]}`,
		"/apis/networking.k8s.io/v1": `{"resources":[{"name":"ingresses","kind":"Ingress"}]}`,
		"/apis/external.metrics.k8s.io/v1beta1/namespaces/default/queue?labelSelector=name%3Djobs": `{"items":[{"value":"3"},{"value":"500m"}]}`,
		"/apis/external.metrics.k8s.io/v1beta1/namespaces/default/full?labelSelector=":             `{"items":[{"value":"9223372036854775"},{"value":"9223372036854775"}]}`,
		"/apis/external.metrics.k8s.io/v1beta1/namespaces/default/empty?labelSelector=":            `{"items":[]}`,
	}
	server := func(without string) targets {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer, ok := answers[strings.TrimSuffix(r.URL.Path+"?"+r.URL.RawQuery, "?")]
			if !ok || without != "" && strings.HasPrefix(r.URL.Path, without) {
				http.NotFound(w, r)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, answer)
		}))
		t.Cleanup(s.Close)
		client, err := kubernetes.NewForConfig(&rest.Config{Host: s.URL})
		if err != nil {
			t.Fatal(err)
		}
		return targets{client}
	}
	one := func(m autoscalingv2.MetricSpec, name, label, value string) autoscalingv2.MetricSpec {
		id := autoscalingv2.MetricIdentifier{Name: name}
		if label != "" {
			id.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{label: value}}
		}
		switch {
		case m.Object != nil:
			m.Object.Metric = id
		case m.External != nil:
			m.External.Metric = id
		}
		return m
	}
	of := func(apiVersion, kind string) autoscalingv2.MetricSpec {
		m := ofObject("1", "")
		m.Object.DescribedObject.APIVersion, m.Object.DescribedObject.Kind = apiVersion, kind
		return m
	}
	whole, custom, none := server(""), server("/apis/external.metrics.k8s.io"), server("/apis/custom.metrics.k8s.io")
	for _, tt := range []struct {
		name  string
		of    targets
		m     autoscalingv2.MetricSpec
		value int64
		err   string
	}{
		{"object", whole, one(of("v1", "Service"), "hits", "verb", "GET"), 7000, ""},
		{"its namespace, whatever name it gives", whole, of("v1", "Namespace"), 8000, ""},
		{"nothing of the object", whole, one(of("networking.k8s.io/v1", "Ingress"), "hits", "verb", "GET"), 0, "unable to fetch metrics from custom metrics API: the custom metrics API server returned 0 results when we asked for exactly one"},
		{"a kind that is none", whole, of("v1", "Servant"), 0, `unable to fetch metrics from custom metrics API: unable to map kind Servant to resource: no matches for kind "Servant" in group ""`},
		{"external", whole, one(external("1", ""), "queue", "name", "jobs"), 3500, ""},
		{"more than can be counted", whole, one(external("1", ""), "full", "", ""), 1<<63 - 1, ""},
		{"no value", whole, one(external("1", ""), "empty", "", ""), 0, "no metrics returned from external metrics API"},
		{"no such API", none, of("v1", "Service"), 0, "unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered"},
		{"no such API, external", custom, external("1", ""), 0, "unable to fetch metrics from external metrics API: the server could not find the requested resource (get queue.external.metrics.k8s.io)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.of.Reading(t.Context(), "default", labels.Everything(), tt.m)
			if said := fmt.Sprint(r.err); r.value != tt.value || said != tt.err && (tt.err != "" || r.err != nil) {
				t.Errorf("%d, %v", r.value, r.err)
			}
		})
	}
	r := whole.Reading(t.Context(), "default", labels.SelectorFromSet(labels.Set{"app": "web"}), ofPods("1"))
	values := map[string]int64{}
	for pod, s := range r.pods {
		values[pod] = s.value
	}
	if want := map[string]int64{"web-0": 1500, "web-1": 2000}; r.err != nil || !maps.Equal(values, want) {
		t.Errorf("%v, %v", values, r.err)
	}
}
