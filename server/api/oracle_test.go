package api

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// TestAnswersEqualUpstream sends the same requests to this server and to upstream's kube-apiserver, and compares the answers. It runs
// where BRAMBLE_ORACLE names one (https://host:port) and BRAMBLE_ORACLE_TOKEN lets in as an administrator; both should have the
// service network 10.43.0.0/16.
func TestAnswersEqualUpstream(t *testing.T) {
	theirs := oracle(t)
	c, _ := shared(t)
	ns := fmt.Sprintf("oracle-%d", os.Getpid())
	for _, config := range []*rest.Config{theirs, c.config} {
		client := must(kubernetes.NewForConfig(config))(t)
		must(client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}))(t)
		must(client.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))(t)
	}
	answersEqual(t, theirs, c.config, slices.Concat(malformed(ns), wellFormed(ns), discoveryRequests(t, c)))
}

// TestCustomResourcesEqualUpstream does the same with a definition on both sides, and what it defines.
func TestCustomResourcesEqualUpstream(t *testing.T) {
	theirs := oracle(t)
	c, _ := shared(t)
	ns, group := fmt.Sprintf("oracle-crd-%d", os.Getpid()), fmt.Sprintf("oracle%d.example.com", os.Getpid())
	for _, config := range []*rest.Config{theirs, c.config} {
		side := &cluster{config: config}
		client := must(kubernetes.NewForConfig(config))(t)
		must(client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}))(t)
		crd := side.define(t, group)
		defer side.undefine(t, crd)
		// Upstream promises these some time after it has said that the definition is established.
		for _, path := range []string{"/apis/GROUP/v1/widgets", "/apis/GROUP/v1beta1/widgets", "/apis/GROUP", "/apis/GROUP/v1", "/apis/GROUP/v1beta1", "/openapi/v3/apis/GROUP/v1", "/openapi/v3/apis/GROUP/v1beta1"} {
			path = strings.Replace(path, "GROUP", group, 1)
			eventually(t, path, func() bool { return ask(t, config, "GET", path, "").code == 200 })
		}
	}
	v3 := []exchange{{name: "openapi", method: "GET", path: "/openapi/v3/apis/" + group + "/v1"}, {name: "openapi of the old version", method: "GET", path: "/openapi/v3/apis/" + group + "/v1beta1"}}
	answersEqual(t, theirs, c.config, append(v3, widgetLife(group, ns)...))
}

// oracle is how upstream's server is asked.
func oracle(t *testing.T) *rest.Config {
	t.Helper()
	url := os.Getenv("BRAMBLE_ORACLE")
	if url == "" {
		t.Skip("no BRAMBLE_ORACLE to compare with")
	}
	return &rest.Config{Host: url, BearerToken: os.Getenv("BRAMBLE_ORACLE_TOKEN"), QPS: -1, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
}

func answersEqual(t *testing.T, theirs, ours *rest.Config, requests []exchange) {
	for _, r := range requests {
		t.Run(r.name, func(t *testing.T) {
			want := ask(t, theirs, r.method, r.path, r.body, r.headers...)
			got := ask(t, ours, r.method, r.path, r.body, r.headers...)
			if got.code != want.code {
				t.Errorf("code %d, upstream %d: %.300s\nupstream: %.300s", got.code, want.code, got.body, want.body)
				return
			}
			for _, h := range []string{"Content-Type", "Warning", "Cache-Control", "Allow"} {
				if got.header.Get(h) != want.header.Get(h) {
					t.Errorf("header %s is %q, upstream %q", h, got.header.Get(h), want.header.Get(h))
				}
			}
			// Upstream's router words a 406 by itself, and a pod's node that is missing is called a pod.
			if want.code != 406 && !strings.Contains(want.body, `pods \"n\" not found`) {
				compare(t, "", normal(got.body), normal(want.body))
			}
		})
	}
}

// compare names each place where two JSON values differ.
func compare(t *testing.T, path string, got, want any) {
	t.Helper()
	g, isMap := got.(map[string]any)
	w, both := want.(map[string]any)
	if isMap && both {
		for k := range w {
			if _, ok := g[k]; !ok {
				t.Errorf("%s.%s is missing: %v", path, k, w[k])
			}
		}
		for k := range g {
			if _, ok := w[k]; !ok {
				t.Errorf("%s.%s is not upstream's: %v", path, k, g[k])
				continue
			}
			compare(t, path+"."+k, g[k], w[k])
		}
		return
	}
	gl, isList := got.([]any)
	wl, bothLists := want.([]any)
	if isList && bothLists && len(gl) == len(wl) {
		for i := range gl {
			compare(t, fmt.Sprintf("%s[%d]", path, i), gl[i], wl[i])
		}
		return
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %.500v\nupstream: %.500v", path, got, want)
	}
}

var generated = regexp.MustCompile(`"(uid|manager|resourceVersion|creationTimestamp|deletionTimestamp|time|age|startTime)":\s*"[^"]*"|kube-api-access-\w+`)

// moment is a time that no field's name gives away: a cell of a table, a condition's.
var moment = regexp.MustCompile(`"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"`)

// normal parses a body without what is different in every cluster.
func normal(body string) any {
	if text, err := yaml.YAMLToJSON([]byte(body)); err == nil {
		body = string(text)
	}
	body = moment.ReplaceAllString(generated.ReplaceAllString(body, `"$1":""`), `""`)
	var v any
	if json.Unmarshal([]byte(body), &v) != nil {
		return body
	}
	return v
}

// wellFormed is a small life of objects, in order.
func wellFormed(ns string) []exchange {
	in := "Content-Type: application/json"
	core, apps := "/api/v1/namespaces/"+ns, "/apis/apps/v1/namespaces/"+ns
	table := "Accept: application/json;as=Table;v=v1;g=meta.k8s.io"
	deployment := `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"x"}]}}}}`
	r := func(name, method, path, body string, headers ...string) exchange {
		return exchange{name: name, method: method, path: path, body: body, headers: headers}
	}
	return []exchange{
		r("create a deployment", "POST", apps+"/deployments", deployment, in, "User-Agent: test"),
		r("its table", "GET", apps+"/deployments", "", table),
		r("its scale", "GET", apps+"/deployments/d/scale", ""),
		r("scale it", "PATCH", apps+"/deployments/d/scale", `{"spec":{"replicas":3}}`, "Content-Type: application/merge-patch+json", "User-Agent: test"),
		r("an invalid one", "POST", apps+"/deployments", strings.Replace(deployment, `{"a":"b"}},"spec"`, `{"a":"c"}},"spec"`, 1), in),
		r("change its selector", "PATCH", apps+"/deployments/d", `{"spec":{"selector":{"matchLabels":{"x":"y"}}}}`, "Content-Type: application/merge-patch+json"),
		r("only metadata", "GET", apps+"/deployments", "", "Accept: application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"),
		r("apply a service", "PATCH", core+"/services/s?fieldManager=m", `{"apiVersion":"v1","kind":"Service","spec":{"clusterIP":"None","ports":[{"port":80}]}}`, "Content-Type: application/apply-patch+yaml"),
		r("a conflict", "PATCH", core+"/services/s?fieldManager=n", `{"apiVersion":"v1","kind":"Service","spec":{"clusterIP":"None","ports":[{"port":80,"name":"x"}],"sessionAffinity":"ClientIP"}}`, "Content-Type: application/apply-patch+yaml"),
		r("create a pod", "POST", core+"/pods", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"tolerations":[{"operator":"Exists"}],"containers":[{"name":"c","image":"x","unknown":1}]}}`, in, "User-Agent: test"),
		r("strictly", "POST", core+"/pods?fieldValidation=Strict", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"q"},"spec":{"containers":[{"name":"c","image":"x","unknown":1}]}}`, in),
		r("pods as a table", "GET", core+"/pods", "", table),
		r("bind it", "POST", core+"/pods/p/binding", `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"p"},"target":{"kind":"Node","name":"n"}}`, in),
		r("bind it again", "POST", core+"/pods/p/binding", `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"p"},"target":{"kind":"Node","name":"n"}}`, in),
		r("its log, whose node is not there", "GET", core+"/pods/p/log", ""),
		r("evict it", "POST", core+"/pods/p/eviction", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"}}`, in),
		r("as yaml", "GET", core+"/services/s", "", "Accept: application/yaml"),
		r("exec without an upgrade", "POST", core+"/pods/p/exec?command=x", ""),
		r("the protected namespace", "DELETE", "/api/v1/namespaces/kube-system", ""),
		r("pretty", "GET", core+"/services/s?pretty=1", ""),
		r("cluster roles", "GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles", ""),
		r("cluster role bindings", "GET", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", ""),
		r("roles", "GET", "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/roles", ""),
		r("priority classes", "GET", "/apis/scheduling.k8s.io/v1/priorityclasses", ""),
		r("namespaces", "GET", "/api/v1/namespaces/default", ""),
		r("who am I", "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", `{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}`, in),
		r("delete the deployment", "DELETE", apps+"/deployments/d", ""),
		r("delete it again", "DELETE", apps+"/deployments/d", ""),
		r("ready", "GET", "/readyz", ""),
	}
}

// discoveryRequests asks for the lists of every present version that is served.
func discoveryRequests(t *testing.T, c *cluster) (out []exchange) {
	t.Helper()
	for gv := range c.wiring.storages {
		path := "/apis/" + gv.String()
		if gv.Group == "" {
			path = "/api/" + gv.Version
		}
		out = append(out, exchange{name: "discovery of " + gv.String(), method: "GET", path: path})
	}
	return append(out, exchange{name: "together", method: "GET", path: "/api", headers: []string{"Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"}})
}
