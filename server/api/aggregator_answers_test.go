package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
)

// announced gives what discovery says of the group version of flunders; nil when it says nothing.
func announced(t *testing.T, c *cluster) *apidiscoveryv2.APIVersionDiscovery {
	t.Helper()
	a := ask(t, c.config, "GET", "/apis", "", "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
	var list apidiscoveryv2.APIGroupDiscoveryList
	if err := json.Unmarshal([]byte(a.body), &list); err != nil {
		t.Fatal(err)
	}
	for _, g := range list.Items {
		if g.Name == "wardle.example.com" {
			return &g.Versions[0]
		}
	}
	return nil
}

// An adapter of metrics of which nobody has configured any serves no resource. That is an answer.
func TestAggregatedAPIWithoutResources(t *testing.T) {
	c, ns, f, client := aggregating(t)
	f.serve("/apis/wardle.example.com/v1", metav1.APIResourceList{GroupVersion: "wardle.example.com/v1"})
	publish(t, c, ns)
	a := must(client.Create(t.Context(), apiService("wardle.example.com/v1", ns), metav1.CreateOptions{}))(t)
	condition(t, client, a.Name, "Passed")
	if got := announced(t, c); got == nil || got.Freshness != apidiscoveryv2.DiscoveryFreshnessCurrent || len(got.Resources) != 0 {
		t.Errorf("discovery: %+v", got)
	}
}

// What a server that is wrong says of itself does not spoil the document for others.
func TestAggregatedAPIWithWrongDocuments(t *testing.T) {
	c, ns, f, client := aggregating(t)
	f.serve("/openapi/v2", map[string]any{"swagger": "2.0", "definitions": map[string]any{"com.example.Flunder": map[string]any{"nonsense": 1}}})
	publish(t, c, ns)
	a := must(client.Create(t.Context(), apiService("wardle.example.com/v1", ns), metav1.CreateOptions{}))(t)
	condition(t, client, a.Name, "Passed")
	for _, kind := range []string{"application/json", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"} {
		if a := ask(t, c.config, "GET", "/openapi/v2", "", "Accept: "+kind); a.code != http.StatusOK || !strings.Contains(a.body, "io.k8s.api.core.v1.Pod") || strings.Contains(a.body, "nonsense") {
			t.Errorf("as %s: %d, %d bytes: %.100q", kind, a.code, len(a.body), a.body)
		}
	}
}

// What has no document of version 3 has no hash, and would stay in the document of version 2 of clients that have it.
func TestAggregatedAPIWithOldDocuments(t *testing.T) {
	c, ns, f, client := aggregating(t)
	f.serve("/openapi/v3", http.NoBody)
	publish(t, c, ns)
	c.define(t, "example.com")
	a := must(client.Create(t.Context(), apiService("wardle.example.com/v1", ns), metav1.CreateOptions{}))(t)
	condition(t, client, a.Name, "Passed")
	if a := ask(t, c.config, "GET", "/openapi/v2", ""); a.code != http.StatusOK || !strings.Contains(a.body, "/apis/example.com/v1/") || strings.Contains(a.body, "wardle") {
		t.Errorf("%d, %d bytes", a.code, len(a.body))
	}
	if a := ask(t, c.config, "GET", "/openapi/v3/apis/wardle.example.com/v1", ""); a.code != http.StatusNotFound {
		t.Errorf("version 3: %d %.100s", a.code, a.body)
	}
}

// An APIService that changes stays in discovery: its server is the one that it was.
func TestAggregatedAPIStaysAnnouncedWhenItChanges(t *testing.T) {
	c, ns, f, client := aggregating(t)
	publish(t, c, ns)
	a := must(client.Create(t.Context(), apiService("wardle.example.com/v1", ns), metav1.CreateOptions{}))(t)
	condition(t, client, a.Name, "Passed")
	eventually(t, "discovery knows it", func() bool { return len(announced(t, c).Resources) == 1 })
	f.hold.Store(true) // what it serves cannot be learnt anew
	defer f.hold.Store(false)
	must(client.Patch(t.Context(), a.Name, types.MergePatchType, []byte(`{"spec":{"versionPriority":201}}`), metav1.PatchOptions{}))(t)
	if got := announced(t, c); got == nil || got.Freshness != apidiscoveryv2.DiscoveryFreshnessCurrent || len(got.Resources) != 1 {
		t.Errorf("discovery: %+v", got)
	}
}

// What is served here is available, also when it was another server's that was not.
func TestAPIServiceBecomesLocal(t *testing.T) {
	_, ns, _, client := aggregating(t)
	a := must(client.Create(t.Context(), apiService("wardle.example.com/v1", ns), metav1.CreateOptions{}))(t)
	condition(t, client, a.Name, "ServiceNotFound")
	must(client.Patch(t.Context(), a.Name, types.MergePatchType, []byte(`{"spec":{"service":null,"insecureSkipTLSVerify":false}}`), metav1.PatchOptions{}))(t)
	got := condition(t, client, a.Name, "Local")
	got.LastTransitionTime = metav1.Time{}
	want := helper.NewLocalAvailableAPIServiceCondition()
	want.LastTransitionTime = metav1.Time{}
	if *got != want || got.Status != apiregistrationv1.ConditionTrue {
		t.Errorf("%+v", got)
	}
}

// A Service may be a name outside of the cluster.
func TestAggregatedAPIElsewhere(t *testing.T) {
	c, ns, _, client := aggregating(t)
	must(c.client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "api"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeExternalName, ExternalName: "adapter.example.com",
	}}, metav1.CreateOptions{}))(t)
	a := must(client.Create(t.Context(), apiService("wardle.example.com/v1", ns), metav1.CreateOptions{}))(t)
	condition(t, client, a.Name, "Passed")
}
