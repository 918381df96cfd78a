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
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
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

// A server that was made before documents of version 3 has them by this one, for who reads no others.
func TestAggregatedAPIFromBeforeVersion3(t *testing.T) {
	c, ns, f, client := aggregating(t)
	f.refuse.Store("/openapi/v3")
	f.serve("/openapi/v2", map[string]any{
		"swagger": "2.0", "info": map[string]string{"title": "w", "version": "1"},
		"definitions": map[string]any{"com.example.wardle.v1.Flunder": map[string]any{
			"type": "object", "properties": map[string]any{"owner": map[string]any{"$ref": "#/definitions/com.example.wardle.v1.Owner"}}, "x-kubernetes-group-version-kind": []any{map[string]string{"group": "wardle.example.com", "version": "v1", "kind": "Flunder"}},
		}, "com.example.wardle.v1.Owner": map[string]string{"type": "string"}},
		"paths": map[string]any{"/apis/wardle.example.com/v1/flunders": map[string]any{"get": map[string]any{"produces": []string{"application/json"}, "responses": map[string]any{"200": map[string]any{
			"description": "OK", "schema": map[string]string{"$ref": "#/definitions/com.example.wardle.v1.Flunder"}}}}}},
	})
	publish(t, c, ns)
	a := must(client.Create(t.Context(), apiService("wardle.example.com/v1", ns), metav1.CreateOptions{}))(t)
	condition(t, client, a.Name, "Passed")
	var list struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	if err := json.Unmarshal([]byte(ask(t, c.config, "GET", "/openapi/v3", "").body), &list); err != nil {
		t.Fatal(err)
	}
	at := list.Paths["apis/wardle.example.com/v1"].ServerRelativeURL
	if !strings.HasPrefix(at, "/openapi/v3/apis/wardle.example.com/v1?hash=") {
		t.Fatalf("it is at %q", at)
	}
	var doc spec3.OpenAPI
	if a := ask(t, c.config, "GET", at, ""); a.code != http.StatusOK || json.Unmarshal([]byte(a.body), &doc) != nil {
		t.Fatalf("%d %s", a.code, a.body)
	}
	flunder := doc.Components.Schemas["com.example.wardle.v1.Flunder"]
	if flunder == nil || flunder.Extensions["x-kubernetes-group-version-kind"] == nil || !refersTo(flunder.Properties["owner"], "#/components/schemas/com.example.wardle.v1.Owner") {
		t.Errorf("%+v", flunder)
	}
	if p := doc.Paths.Paths["/apis/wardle.example.com/v1/flunders"]; p == nil || p.Get.Responses.StatusCodeResponses[200].Content["application/json"].Schema.Ref.String() != "#/components/schemas/com.example.wardle.v1.Flunder" {
		t.Errorf("%+v", p)
	}
	if a := ask(t, c.config, "GET", "/openapi/v2", ""); a.code != http.StatusOK || !strings.Contains(a.body, "com.example.wardle.v1.Flunder") {
		t.Errorf("version 2: %d, %d bytes", a.code, len(a.body))
	}
}

func refersTo(s spec.Schema, what string) bool { return s.Ref.String() == what }

// One that has neither, or says nonsense, adds nothing.
func TestAggregatedAPIWithoutDocuments(t *testing.T) {
	for name, said := range map[string]any{"none": nil, "a word": "x", "nothing": map[string]any{}, "half a path": map[string]any{"swagger": "2.0", "paths": map[string]any{"/apis/wardle.example.com/v1/x": map[string]any{"get": map[string]any{}}}}} {
		t.Run(name, func(t *testing.T) {
			c, ns, f, client := aggregating(t)
			f.refuse.Store("/openapi/")
			if said != nil {
				f.refuse.Store("/openapi/v3")
				f.serve("/openapi/v2", said)
			}
			publish(t, c, ns)
			a := must(client.Create(t.Context(), apiService("wardle.example.com/v1", ns), metav1.CreateOptions{}))(t)
			condition(t, client, a.Name, "Passed")
			for _, path := range []string{"/openapi/v2", "/openapi/v3", "/openapi/v3/apis/apps/v1"} {
				if a := ask(t, c.config, "GET", path, ""); a.code != http.StatusOK {
					t.Errorf("%s: %d %.200s", path, a.code, a.body)
				}
			}
			if a := ask(t, c.config, "GET", "/openapi/v3/apis/wardle.example.com/v1", ""); a.code >= http.StatusInternalServerError {
				t.Errorf("version 3: %d %.200s", a.code, a.body)
			}
		})
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
