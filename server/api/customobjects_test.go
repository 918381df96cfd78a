package api

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// widgetLife is what can be asked of widgets, in order; the answers are upstream's (TestAnswersEqualUpstream).
func widgetLife(group, ns string) []exchange {
	path := "/apis/" + group + "/v1/namespaces/" + ns + "/widgets"
	beta := strings.Replace(path, "/v1/", "/v1beta1/", 1)
	in, merge, apply := "Content-Type: application/json", "Content-Type: application/merge-patch+json", "Content-Type: application/apply-patch+yaml"
	table := "Accept: application/json;as=Table;v=v1;g=meta.k8s.io"
	object := func(name, spec string) string {
		return fmt.Sprintf(`{"apiVersion":"%s/v1","kind":"Widget","metadata":{"name":%q},"spec":%s}`, group, name, spec)
	}
	return []exchange{
		{"create", "POST", path, object("a", `{"size":3}`), []string{in, "User-Agent: test"}, 201, `"color":"red"`},
		{"create again", "POST", path, object("a", `{"size":3}`), []string{in}, 409, "AlreadyExists"},
		{"no size", "POST", path, object("b", `{}`), []string{in}, 422, "spec.size"},
		{"a negative size", "POST", path, object("b", `{"size":-1}`), []string{in}, 422, "greater than or equal to 0"},
		{"a rule", "POST", path, object("b", `{"size":11}`), []string{in}, 422, "big ones are blue"},
		{"no namespace", "POST", strings.Replace(path, ns, "nowhere", 1), object("b", `{"size":1}`), []string{in}, 404, "nowhere"},
		{"an unknown field", "POST", path, object("unknown", `{"size":1,"sise":2}`), []string{in, "User-Agent: test"}, 201, `"size":1`},
		{"strictly", "POST", path + "?fieldValidation=Strict", object("b", `{"size":1,"sise":2}`), []string{in}, 400, `unknown field \"spec.sise\"`},
		{"with a warning", "POST", path + "?fieldValidation=Warn", object("warned", `{"size":1,"sise":2}`), []string{in, "User-Agent: test"}, 201, `"size":1`},
		{"a field twice", "POST", path + "?fieldValidation=Strict", object("b", `{"size":1,"size":2}`), []string{in}, 400, "duplicate field"},
		{"dry run", "POST", path + "?dryRun=All", object("dry", `{"size":1}`), []string{in, "User-Agent: test"}, 201, "dry"},
		{"get", "GET", path + "/a", "", nil, 200, `"size":3`},
		{"in the other version", "GET", beta + "/a", "", nil, 200, "v1beta1"},
		{"as yaml", "GET", path + "/a", "", []string{"Accept: application/yaml"}, 200, "color: red"},
		{"as protobuf", "GET", path + "/a", "", []string{"Accept: application/vnd.kubernetes.protobuf"}, 406, ""},
		{"list", "GET", path, "", nil, 200, "WidgetList"},
		{"table", "GET", path, "", []string{table}, 200, `"name":"Size"`},
		{"metadata", "GET", path, "", []string{"Accept: application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}, 200, "PartialObjectMetadataList"},
		{"merge", "PATCH", path + "/a", `{"spec":{"color":"green","nothing":null}}`, []string{merge, "User-Agent: test"}, 200, "green"},
		{"strategic merge", "PATCH", path + "/a", `{"spec":{"size":4}}`, []string{"Content-Type: application/strategic-merge-patch+json"}, 415, ""},
		{"selected", "GET", path + "?fieldSelector=spec.color%3Dgreen", "", nil, 200, `"name":"a"`},
		{"selected by what cannot be", "GET", path + "?fieldSelector=spec.size%3D3", "", nil, 400, "field label not supported"},
		{"apply", "PATCH", path + "/s?fieldManager=m", object("s", `{"size":1,"parts":[{"name":"x","count":1}]}`), []string{apply}, 201, `"manager":"m"`},
		{"apply another part", "PATCH", path + "/s?fieldManager=n", object("s", `{"size":1,"parts":[{"name":"y"}]}`), []string{apply}, 200, `"name":"x"`},
		{"a conflict", "PATCH", path + "/s?fieldManager=n", object("s", `{"size":2,"parts":[{"name":"x","count":2}]}`), []string{apply}, 409, "parts[name="},
		{"status alone", "PUT", path + "/a/status", strings.Replace(object("a", `{"size":9}`), `"spec"`, `"status":{"size":2},"spec"`, 1), []string{in, "User-Agent: test"}, 422, "metadata.resourceVersion"},
		{"patch the status", "PATCH", path + "/a/status", `{"spec":{"size":9},"status":{"size":2}}`, []string{merge, "User-Agent: test"}, 200, `"size":3`},
		{"scale", "GET", path + "/a/scale", "", nil, 200, `"replicas":3`},
		{"scale it", "PATCH", path + "/a/scale", `{"spec":{"replicas":5}}`, []string{merge, "User-Agent: test"}, 200, `"replicas":5`},
		{"no such part", "GET", path + "/a/other", "", nil, 404, ""},
		{"no such version", "GET", strings.Replace(path, "/v1/", "/v7/", 1), "", nil, 404, ""},
		{"without a namespace", "POST", "/apis/" + group + "/v1/widgets", object("b", `{"size":1}`), []string{in}, 404, ""},
		{"discovery of the group", "GET", "/apis/" + group, "", nil, 200, "preferredVersion"},
		{"discovery of a version", "GET", "/apis/" + group + "/v1", "", nil, 200, "widgets/scale"},
		{"discovery of the old version", "GET", "/apis/" + group + "/v1beta1", "", nil, 200, "widgets"},
		{"the definitions", "GET", "/apis/apiextensions.k8s.io/v1", "", nil, 200, "customresourcedefinitions"},
		{"the definition", "GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets." + group, "", nil, 200, "Established"},
		{"the definitions as a table", "GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "", []string{table}, 200, "Created At"},
		{"delete", "DELETE", path + "/a", "", nil, 200, "Success"},
		{"delete again", "DELETE", path + "/a", "", nil, 404, "NotFound"},
		{"delete the others", "DELETE", path, "", nil, 200, "WidgetList"},
		{"an empty list", "GET", path, "", nil, 200, `"items":[]`},
	}
}

func TestCustomResources(t *testing.T) {
	c, ns := shared(t)
	crd := c.define(t, "life.example.com")
	defer c.undefine(t, crd)
	for _, r := range widgetLife("life.example.com", ns) {
		a := ask(t, c.config, r.method, r.path, r.body, r.headers...)
		if a.code != r.code || !strings.Contains(a.body, r.want) {
			t.Errorf("%s: %d without %q: %.500s", r.name, a.code, r.want, a.body)
		}
		if strings.Contains(a.body, "sise") && r.code < 300 {
			t.Errorf("%s: an unknown field was kept: %s", r.name, a.body)
		}
		if warned := a.header.Get("Warning") != ""; warned != (r.name == "with a warning" || r.name == "an unknown field" || strings.Contains(r.path, "v1beta1/")) {
			t.Errorf("%s: the warning is %q", r.name, a.header.Get("Warning"))
		}
	}
}

// The documents of OpenAPI are whole with custom resources in them: each can be read by its readers, and what was there before is still.
func TestOpenAPIOfCustomResources(t *testing.T) {
	c, _ := shared(t)
	before := ask(t, c.config, "GET", "/openapi/v2", "")
	crd := c.define(t, "api.example.com")
	a := ask(t, c.config, "GET", "/openapi/v2", "")
	names := []string{"com.example.api.v1.Widget", "com.example.api.v1.WidgetList", "com.example.api.v1beta1.Widget", "io.k8s.api.apps.v1.Deployment"}
	text := unmarshal[struct{ Definitions, Parameters, Paths map[string]json.RawMessage }](t, a.body)
	doc, err := openapi_v2.ParseDocument([]byte(a.body))
	if err != nil {
		t.Fatalf("version 2: %v", err)
	}
	pb := ask(t, c.config, "GET", "/openapi/v2", "", "Accept: application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
	var message openapi_v2.Document
	if err := proto.Unmarshal([]byte(pb.body), &message); err != nil {
		t.Fatalf("version 2 as protobuf: %v", err)
	}
	var inMessage []string
	for _, d := range message.Definitions.AdditionalProperties {
		inMessage = append(inMessage, d.Name)
	}
	for _, n := range names {
		if text.Definitions[n] == nil || !slices.Contains(inMessage, n) {
			t.Errorf("%s is missing in one of the forms", n)
		}
	}
	if len(inMessage) != len(doc.Definitions.AdditionalProperties) || len(message.Paths.Path) != len(doc.Paths.Path) || message.Info.Title != "Kubernetes" || message.Swagger != "2.0" {
		t.Errorf("protobuf has %d definitions and %d paths, JSON %d and %d", len(inMessage), len(message.Paths.Path), len(doc.Definitions.AdditionalProperties), len(doc.Paths.Path))
	}
	if a.header.Get("Etag") == before.header.Get("Etag") {
		t.Error("the mark of version 2 has not changed")
	}
	if again := ask(t, c.config, "GET", "/openapi/v2", "", "If-None-Match: "+a.header.Get("Etag")); again.code != 304 {
		t.Errorf("asked again: %d", again.code)
	}
	index := unmarshal[struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}](t, ask(t, c.config, "GET", "/openapi/v3", "").body)
	url := index.Paths["apis/api.example.com/v1"].ServerRelativeURL
	v3 := ask(t, c.config, "GET", url, "")
	if v3.code != 200 || !strings.Contains(v3.body, `"x-kubernetes-selectable-fields"`) || v3.header.Get("Expires") == "" {
		t.Errorf("%s: %d %.200s", url, v3.code, v3.body)
	}
	unmarshal[map[string]any](t, v3.body)
	if old := ask(t, c.config, "GET", "/openapi/v3/apis/api.example.com/v1?hash=0", ""); old.code != 200 || old.header.Get("Etag") != v3.header.Get("Etag") {
		t.Errorf("an outdated address: %d", old.code) // the client follows to the present one
	}
	c.undefine(t, crd)
	if after := ask(t, c.config, "GET", "/openapi/v2", ""); after.body != before.body || after.header.Get("Etag") != before.header.Get("Etag") {
		t.Error("version 2 is not what it was")
	}
}

// A webhook that a URL names converts between versions.
func TestConversionByAWebhook(t *testing.T) {
	c, ns := shared(t)
	var asked atomic.Int64
	hook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		var review apiextensionsv1.ConversionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), 400)
			return
		}
		answer := &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
		for _, raw := range review.Request.Objects {
			var u unstructured.Unstructured
			if err := u.UnmarshalJSON(raw.Raw); err != nil {
				http.Error(w, err.Error(), 400)
				return
			}
			u.SetAPIVersion(review.Request.DesiredAPIVersion)
			u.Object["converted"] = true
			text, _ := u.MarshalJSON()
			answer.ConvertedObjects = append(answer.ConvertedObjects, runtime.RawExtension{Raw: text})
		}
		review.Request, review.Response = nil, answer
		json.NewEncoder(w).Encode(review)
	}))
	defer hook.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw})
	convert := func(client apiextensionsv1.WebhookClientConfig) func(*apiextensionsv1.CustomResourceDefinition) {
		return func(crd *apiextensionsv1.CustomResourceDefinition) {
			client.CABundle = ca
			crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{ClientConfig: &client, ConversionReviewVersions: []string{"v1"}}}
		}
	}
	for _, one := range []struct {
		group  string
		client apiextensionsv1.WebhookClientConfig
		code   int
		want   string
	}{
		{"url.example.com", apiextensionsv1.WebhookClientConfig{URL: &hook.URL}, 200, `"converted":true`},
		{"service.example.com", apiextensionsv1.WebhookClientConfig{Service: &apiextensionsv1.ServiceReference{Namespace: ns, Name: "absent"}}, 500, `\"absent\" not found`},
	} {
		crd := c.define(t, one.group, convert(one.client))
		path := "/apis/" + one.group + "/v1/namespaces/" + ns + "/widgets"
		if a := ask(t, c.config, "POST", path, `{"apiVersion":"`+one.group+`/v1","kind":"Widget","metadata":{"name":"a"},"spec":{"size":1}}`); a.code != 201 {
			t.Errorf("%s: create: %d %s", one.group, a.code, a.body)
		}
		if a := ask(t, c.config, "GET", strings.Replace(path, "/v1/", "/v1beta1/", 1)+"/a", ""); a.code != one.code || !strings.Contains(a.body, one.want) {
			t.Errorf("%s: %d %s", one.group, a.code, a.body)
		}
		c.undefine(t, crd)
	}

	// What the webhook has made of an object is remembered until that changes: a list would ask for every one of its objects.
	crd := c.define(t, "many.example.com", convert(apiextensionsv1.WebhookClientConfig{URL: &hook.URL}))
	defer c.undefine(t, crd)
	path := "/apis/many.example.com/v1/namespaces/" + ns + "/widgets"
	const many = 20
	for n := range many {
		if a := ask(t, c.config, "POST", path, fmt.Sprintf(`{"apiVersion":"many.example.com/v1","kind":"Widget","metadata":{"name":"w%d"},"spec":{"size":1}}`, n)); a.code != 201 {
			t.Fatalf("create: %d %s", a.code, a.body)
		}
	}
	list := func(most int64) string {
		t.Helper()
		before := asked.Load()
		a := ask(t, c.config, "GET", strings.Replace(path, "/v1/", "/v1beta1/", 1), "")
		if n := strings.Count(a.body, `"converted":true`); a.code != 200 || n != many {
			t.Errorf("%d, and %d are converted: %.300s", a.code, n, a.body)
		}
		if n := asked.Load() - before; n > most {
			t.Errorf("the webhook was asked %d times, want %d at most", n, most)
		}
		return a.body
	}
	first := list(many)
	if again := list(0); again != first {
		t.Errorf("another list:\n%s\nthe first:\n%s", again, first)
	}
	if a := ask(t, c.config, "PATCH", path+"/w7", `{"spec":{"size":7}}`, "Content-Type: application/merge-patch+json"); a.code != 200 {
		t.Errorf("patch: %d %s", a.code, a.body)
	}
	if changed := list(1); !strings.Contains(changed, `"size":7`) {
		t.Errorf("after a change: %s", changed)
	}
}

// unmarshal reads JSON into a new value.
func unmarshal[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %.300s", err, text)
	}
	return v
}
