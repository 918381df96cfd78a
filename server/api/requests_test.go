package api

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	printerstorage "k8s.io/kubernetes/pkg/printers/storage"

	"bramble.dev/internal/upstream"
	"bramble.dev/server/api/resourcemetrics"
)

// exchange is one request and what is asked of its answer.
type exchange struct {
	name, method, path, body string
	headers                  []string
	code                     int
	want                     string // in the body
}

// malformed are requests that upstream refuses, with the words in which it does.
func malformed(ns string) []exchange {
	maps := "/api/v1/namespaces/" + ns + "/configmaps"
	json, yaml, pb := "Content-Type: application/json", "Content-Type: application/yaml", "Content-Type: application/vnd.kubernetes.protobuf"
	return []exchange{
		{"no json", "POST", maps, "{", []string{json}, 400, "unexpected end of JSON input"},
		{"empty", "POST", maps, "", []string{json}, 400, ""},
		{"null", "POST", maps, "null", []string{json}, 422, "metadata.name: Required value"},
		{"bad yaml", "POST", maps, "a: [", []string{yaml}, 400, "yaml"},
		{"bad protobuf", "POST", maps, "k8s\x00\xff\xff", []string{pb}, 400, ""},
		{"no protobuf", "POST", maps, "hello", []string{pb}, 400, ""},
		{"another kind", "POST", maps, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}}`, []string{json}, 400, "cannot be handled as a ConfigMap"},
		{"an unknown kind", "POST", maps, `{"apiVersion":"v9","kind":"Nothing","metadata":{"name":"x"}}`, []string{json}, 400, `no kind \"Nothing\" is registered`},
		{"a wrong type", "POST", maps, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":[1]}`, []string{json}, 400, "cannot unmarshal array"},
		{"a bad name", "POST", maps, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"No_Such"}}`, []string{json}, 422, "metadata.name: Invalid value"},
		{"no name", "POST", maps, `{"apiVersion":"v1","kind":"ConfigMap"}`, []string{json}, 422, "metadata.name: Required value"},
		{"another namespace", "POST", maps, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","namespace":"other"}}`, []string{json}, 400, "does not match the namespace sent on the request"},
		{"a namespace that is not there", "POST", "/api/v1/namespaces/nowhere/configmaps", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`, []string{json}, 404, `namespaces \"nowhere\" not found`},
		{"an unknown type of content", "POST", maps, "x", []string{"Content-Type: text/x-nothing"}, 415, ""},
		{"too large", "POST", maps, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":"` + strings.Repeat("x", 4<<20) + `"}}`, []string{json}, 413, ""},
		{"too large a ConfigMap", "POST", maps, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":"` + strings.Repeat("x", 2<<20) + `"}}`, []string{json}, 422, "Too long"},
		{"nothing acceptable", "GET", maps, "", []string{"Accept: text/x-nothing"}, 406, ""},
		{"a bad selector", "GET", maps + "?labelSelector=a%3D%3D%3Db%28", "", nil, 400, "unable to parse requirement"},
		{"a field that cannot be selected", "GET", maps + "?fieldSelector=data.x%3Dy", "", nil, 400, "is not a known field selector"},
		{"a bad revision", "GET", maps + "?resourceVersion=abc", "", nil, 400, "invalid resource version"},
		{"a bad continue token", "GET", maps + "?limit=1&continue=zzz", "", nil, 400, "continue key is not valid"},
		{"a bad limit", "GET", maps + "?limit=abc", "", nil, 400, ""},
		{"a bad timeout", "GET", maps + "?timeout=abc", "", nil, 400, "invalid timeout"},
		{"a method that is not there", "PUT", maps, "{}", []string{json}, 405, ""},
		{"an unknown resource", "GET", "/api/v1/nothings", "", nil, 404, ""},
		{"an unknown group", "GET", "/apis/example.com/v1/things", "", nil, 404, ""},
		{"an unknown version", "GET", "/apis/apps/v9/deployments", "", nil, 404, ""},
		{"an unknown path", "GET", "/nothing", "", nil, 404, ""},
		{"an unknown subresource", "GET", "/api/v1/namespaces/" + ns + "/pods/x/nothing", "", nil, 404, ""},
		{"logs of no pod", "GET", "/api/v1/namespaces/" + ns + "/pods/x/log", "", nil, 404, `pods \"x\" not found`},
		{"two slashes", "GET", "//api//v1", "", nil, 404, ""},
		{"a path that climbs", "GET", "/api/v1/../../etc/passwd", "", nil, 404, ""},
	}
}

func TestMalformedRequests(t *testing.T) {
	c, ns := shared(t)
	for _, tt := range malformed(ns) {
		t.Run(tt.name, func(t *testing.T) {
			a := ask(t, c.config, tt.method, tt.path, tt.body, tt.headers...)
			if a.code != tt.code || !strings.Contains(a.body, tt.want) {
				t.Errorf("%d %.300s, want %d with %q", a.code, a.body, tt.code, tt.want)
			}
		})
	}
}

func TestDiscoverySaysWhatIsServed(t *testing.T) {
	c, _ := shared(t)
	groups, lists, err := c.client.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, g := range groups {
		order = append(order, g.Name)
	}
	if order[0] != "" || order[1] != "apiregistration.k8s.io" || order[2] != "apps" || order[len(order)-2] != "extensions" || order[len(order)-1] != "metrics.k8s.io" {
		t.Errorf("order %v", order)
	}
	resources := map[string][]string{}
	for _, l := range lists {
		for _, r := range l.APIResources {
			resources[l.GroupVersion] = append(resources[l.GroupVersion], r.Name)
		}
	}
	for gv, want := range map[string][]string{
		"v1": {"pods", "pods/exec", "pods/eviction", "serviceaccounts/token", "nodes/proxy"}, "apps/v1": {"deployments", "deployments/scale"},
		"apps/v1beta1": {"statefulsets/scale"}, "apps/v1beta2": {"replicasets"}, "extensions/v1beta1": {"ingresses", "daemonsets/status"}, "batch/v2alpha1": {"cronjobs"},
	} {
		for _, r := range want {
			if !slices.Contains(resources[gv], r) {
				t.Errorf("%s lacks %s: %v", gv, r, resources[gv])
			}
		}
	}

	// A short name means the present group's.
	for _, l := range lists {
		for _, r := range l.APIResources {
			if l.GroupVersion == "extensions/v1beta1" && len(r.ShortNames)+len(r.Categories) > 0 {
				t.Errorf("extensions has %s as %v in %v", r.Name, r.ShortNames, r.Categories)
			}
		}
	}

	// The form before 1.26 says the same.
	accept := "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	for _, root := range []string{"/api", "/apis"} {
		a := ask(t, c.config, "GET", root, "", accept)
		var all apidiscoveryv2.APIGroupDiscoveryList
		if err := json.Unmarshal([]byte(a.body), &all); err != nil || len(all.Items) == 0 {
			t.Fatalf("%s: %v %.200s", root, err, a.body)
		}
		if again := ask(t, c.config, "GET", root, "", accept, "If-None-Match: "+a.header.Get("Etag")); again.code != 304 {
			t.Errorf("%s: the etag %q gave %d", root, a.header.Get("Etag"), again.code)
		}
		for _, g := range all.Items {
			for _, v := range g.Versions {
				path := root + "/" + v.Version
				if g.Name != "" {
					path = root + "/" + g.Name + "/" + v.Version
				}
				var l metav1.APIResourceList
				if err := json.Unmarshal([]byte(ask(t, c.config, "GET", path, "").body), &l); err != nil {
					t.Fatalf("%s: %v", path, err)
				}
				var names []string
				for _, r := range l.APIResources {
					if !strings.Contains(r.Name, "/") {
						names = append(names, r.Name)
					}
				}
				if len(names) != len(v.Resources) {
					t.Errorf("%s: %v, together %v", path, names, v.Resources)
				}
			}
		}
	}
}

// Every list can be shown as a table, and every kind can be made and printed.
func TestEveryListAnswers(t *testing.T) {
	c, _ := shared(t)
	_, lists, err := c.client.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lists {
		root := "/apis/"
		if !strings.Contains(l.GroupVersion, "/") {
			root = "/api/"
		}
		for _, r := range l.APIResources {
			if !slices.Contains(r.Verbs, "list") {
				continue
			}
			path := root + l.GroupVersion + "/" + r.Name
			for _, accept := range []string{"application/json", "application/vnd.kubernetes.protobuf", "application/json;as=Table;v=v1;g=meta.k8s.io", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"} {
				if a := ask(t, c.config, "GET", path+"?limit=5", "", "Accept: "+accept); a.code != 200 {
					t.Errorf("%s as %s: %d %.200s", path, accept, a.code, a.body)
				}
			}
		}
	}
}

func TestTablesAreShared(t *testing.T) {
	c, _ := shared(t)
	shared, total := reflect.ValueOf(sharedTables.TableGenerator).Pointer(), 0
	for gv, storages := range c.wiring.storages {
		for path, s := range storages {
			eachTable(reflect.ValueOf(s), map[uintptr]bool{}, 0, func(t2 *printerstorage.TableConvertor) {
				total++
				if reflect.ValueOf(t2.TableGenerator).Pointer() != shared {
					t.Errorf("%s %s has a printer of its own", gv, path)
				}
			})
		}
	}
	if total < 100 {
		t.Errorf("only %d table converters were found: upstream's storages have changed, see shareTables", total)
	}
}

func TestOpenAPI(t *testing.T) {
	c, _ := shared(t)
	v2 := ask(t, c.config, "GET", "/openapi/v2", "", "Accept: application/json")
	var doc struct {
		Paths       map[string]any
		Definitions map[string]any
	}
	if err := json.Unmarshal([]byte(v2.body), &doc); err != nil || doc.Definitions["io.k8s.api.apps.v1.Deployment"] == nil || doc.Paths["/api/v1/namespaces/{namespace}/pods"] == nil {
		t.Fatalf("v2: %v %.100s", err, v2.body)
	}
	if a := ask(t, c.config, "GET", "/openapi/v2", "", "If-None-Match: "+v2.header.Get("Etag")); a.code != 304 {
		t.Errorf("v2 etag: %d", a.code)
	}
	for _, accept := range []string{"application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"} {
		a := ask(t, c.config, "GET", "/openapi/v2", "", "Accept: "+accept)
		var parsed openapi_v2.Document
		if err := proto.Unmarshal([]byte(a.body), &parsed); err != nil || len(parsed.Definitions.AdditionalProperties) != len(doc.Definitions) {
			t.Errorf("%s: %v", accept, err)
		}
	}
	raw := ask(t, c.config, "GET", "/openapi/v2", "", "Accept-Encoding: gzip")
	if z, err := gzip.NewReader(bytes.NewReader([]byte(raw.body))); err != nil {
		t.Error(err)
	} else if b, _ := io.ReadAll(z); string(b) != v2.body {
		t.Error("the compressed document differs")
	}

	for _, g := range table { // Debian's kubectl has no other way to learn that an old version knows dry runs
		for _, o := range g.old {
			for resource := range o.from {
				version := "/apis/" + g.name + "/" + o.version + "/"
				path := version + "namespaces/{namespace}/" + resource + "/{name}"
				if doc.Paths[path] == nil { // it is the cluster's
					path = version + resource + "/{name}"
				}
				text, _ := json.Marshal(doc.Paths[path])
				for _, want := range []string{`"name":"dryRun"`, `"group":"` + g.name + `"`, `"version":"` + o.version + `"`, `"kind":"`} {
					if !strings.Contains(string(text), want) {
						t.Errorf("no %s in %s: %s", want, path, text)
					}
				}
			}
		}
	}

	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	if err := json.Unmarshal([]byte(ask(t, c.config, "GET", "/openapi/v3", "").body), &index); err != nil {
		t.Fatal(err)
	}
	a := ask(t, c.config, "GET", index.Paths["apis/apps/v1"].ServerRelativeURL, "")
	if a.code != 200 || a.header.Get("Cache-Control") != "public, immutable" || !strings.Contains(a.body, `"io.k8s.api.apps.v1.Deployment"`) {
		t.Errorf("v3: %d %v", a.code, a.header)
	}
	if a := ask(t, c.config, "GET", "/openapi/v3/apis/example.com/v1", ""); a.code != 404 {
		t.Errorf("no such document: %d", a.code)
	}
	// There is a document for each present version that is served, and for none that is not. Upstream documents no metrics.k8s.io:
	// nobody writes its kinds.
	var documented, served []string
	for p := range index.Paths {
		if strings.Count(p, "/") == 2 && strings.HasPrefix(p, "apis/") {
			documented = append(documented, strings.TrimPrefix(p, "apis/"))
		}
	}
	for gv := range c.wiring.storages {
		if gv.Group != "" && gv.Group != resourcemetrics.GroupName {
			served = append(served, gv.String())
		}
	}
	slices.Sort(documented)
	slices.Sort(served)
	if !slices.Equal(documented, served) {
		t.Errorf("documented %v\nserved %v", documented, served)
	}
}

func TestHealthAndVersion(t *testing.T) {
	c, _ := shared(t)
	if a := ask(t, c.config, "GET", "/readyz?verbose", ""); a.code != 200 || !strings.Contains(a.body, "[+]store ok\n") || !strings.HasSuffix(a.body, "readyz check passed\n") {
		t.Errorf("%d %s", a.code, a.body)
	}
	v := must(c.client.Discovery().ServerVersion())(t)
	if v.Major != upstream.Major || v.Minor != upstream.Minor || v.GitVersion != upstream.Version+"+bramble" {
		t.Errorf("version %+v", v)
	}
	if a := ask(t, c.config, "GET", "/metrics", ""); a.code != 200 || !strings.Contains(a.body, "apiserver_request_total{") {
		t.Errorf("metrics: %d", a.code)
	}
	if a := ask(t, c.config, "GET", "/", ""); a.code != 200 || !strings.Contains(a.body, `"/apis/apps/v1"`) {
		t.Errorf("index: %d %s", a.code, a.body)
	}
}

func TestRouter(t *testing.T) {
	n := &router{}
	for _, p := range []string{"/api/v1/pods", "/api/v1/namespaces/{namespace}/pods/{name}", "/api/v1/namespaces/{name}", "/api/v1/namespaces/{namespace}/pods/{name}/proxy", "/api/v1/namespaces/{namespace}/pods/{name}/proxy/{path:*}", "/api/v1/watch/pods"} {
		n.add("GET", p, route{})
	}
	for path, want := range map[string]bool{
		"/api/v1/pods": true, "/api/v1/pods/": true, "/api/v1/pods/x": false, "/api": false, "/": false, "": false, "/api/v1/namespaces/a": true,
		"/api/v1/namespaces/a/pods/b": true, "/api/v1/namespaces/a/pods": false, "/api/v1/namespaces/a/pods/b/proxy": true, "/api/v1/namespaces/a/pods/b/proxy/c/d/e": true,
		"/api/v1/namespaces/a/pods/b/proxy/": true, "/api/v1/namespaces/a/pods/b/log": false,
	} {
		if got := n.find(path) != nil; got != want {
			t.Errorf("%q: %v", path, got)
		}
	}
}

// Types of content are looked at before a handler is, as go-restful does: without their parameters, and without half wildcards.
func TestRouterKnowsTypes(t *testing.T) {
	n := &router{}
	n.add("PATCH", "/x", route{func(w http.ResponseWriter, _ *http.Request) {}, mediaTypesOf([]string{"application/json-patch+json"}), mediaTypesOf([]string{"application/json", "application/yaml"})})
	for _, tt := range []struct {
		content, accept string
		code            int
	}{
		{"application/json-patch+json", "", 200},
		{"application/json-patch+json; charset=utf-8", "application/yaml;q=0.5", 200},
		{"application/json-patch+json", "text/html, */*;q=0.1", 200},
		{"application/json-patch+json", "application/*", 406},
		{"application/json-patch+json", "text/html,text/plain", 406},
		{"application/json", "", 415},
		{"", "", 415},
	} {
		r := httptest.NewRequest("PATCH", "/x", nil)
		r.Header.Set("Content-Type", tt.content)
		r.Header.Set("Accept", tt.accept)
		w := httptest.NewRecorder()
		if n.serve(w, r); w.Code != tt.code {
			t.Errorf("%q as %q: %d, want %d", tt.content, tt.accept, w.Code, tt.code)
		}
	}
}
