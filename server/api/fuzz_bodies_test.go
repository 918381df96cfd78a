package api

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"sigs.k8s.io/yaml"
)

// place is where objects of a kind are made, and one that can be.
type place struct {
	path    string // NS stands for the namespace
	object  string // as YAML
	numbers bool   // a create takes a number or an address, which is written down also when it is refused after that
}

var places = []place{
	{"/api/v1/namespaces/NS/configmaps", "metadata: {name: a, labels: {x: z}}\ndata: {k: v}\nbinaryData: {b: AAEC}\n", false},
	{"/api/v1/namespaces/NS/secrets", "metadata: {name: a}\nstringData: {k: v}\ntype: Opaque\n", false},
	{"/api/v1/namespaces/NS/services", "metadata: {name: a}\nspec: {type: NodePort, ports: [{port: 80, targetPort: http}], selector: {x: z}}\n", true},
	{"/api/v1/namespaces/NS/pods", "metadata: {name: a}\nspec: {containers: [{name: c, image: x, resources: {requests: {cpu: 100m, memory: 1Gi}}, volumemounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, hostpath: {path: /a}}]}\n", false},
	{"/apis/apps/v1/namespaces/NS/deployments", "metadata: {name: a}\nspec: {replicas: 2, selector: {matchLabels: {x: z}}, template: {metadata: {labels: {x: z}}, spec: {containers: [{name: c, image: x}]}}}\n", false},
	{"/apis/extensions/v1beta1/namespaces/NS/deployments", "metadata: {name: a}\nspec: {template: {metadata: {labels: {x: z}}, spec: {containers: [{name: c, image: x}]}}}\n", false},
	{"/apis/apps/v1beta2/namespaces/NS/statefulsets", "metadata: {name: a}\nspec: {serviceName: s, selector: {matchLabels: {x: z}}, template: {metadata: {labels: {x: z}}, spec: {containers: [{name: c, image: x}], volumeClaimTemplates: [{metadata: {name: d}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]}}}\n", false},
	{"/apis/batch/v2alpha1/namespaces/NS/cronjobs", "metadata: {name: a}\nspec: {schedule: '*/5 * * * *', jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: x}]}}}}}\n", false},
	{"/apis/extensions/v1beta1/namespaces/NS/ingresses", "metadata: {name: a}\nspec: {rules: [{host: a.example, http: {paths: [{path: /, backend: {serviceName: s, servicePort: 80}}]}}]}\n", false},
	{"/apis/autoscaling/v2/namespaces/NS/horizontalpodautoscalers", "metadata: {name: a}\nspec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: a}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]}\n", false},
	{"/apis/networking.k8s.io/v1/namespaces/NS/networkpolicies", "metadata: {name: a}\nspec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 80, endPort: 90}]}]}\n", false},
	{"/apis/rbac.authorization.k8s.io/v1/namespaces/NS/roles", "metadata: {name: a}\nrules: [{apiGroups: [''], resources: [pods], verbs: [get]}]\n", false},
	{"/apis/policy/v1/namespaces/NS/poddisruptionbudgets", "metadata: {name: a}\nspec: {minAvailable: 50%, selector: {matchExpressions: [{key: x, operator: In, values: [z]}]}}\n", false},
	{"/api/v1/namespaces/NS/persistentvolumeclaims", "metadata: {name: a}\nspec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1.5Gi}}}\n", false},
	{"/apis/coordination.k8s.io/v1/namespaces/NS/leases", "metadata: {name: a}\nspec: {holderIdentity: x, leaseDurationSeconds: 15, renewTime: '2026-01-01T00:00:00.000001Z'}\n", false},
	{"/apis/resource.k8s.io/v1/namespaces/NS/resourceclaims", "metadata: {name: a}\nspec: {devices: {requests: [{name: r, exactly: {deviceClassName: d}}]}}\n", false},
}

var bodies = []string{runtime.ContentTypeJSON, runtime.ContentTypeYAML, runtime.ContentTypeProtobuf, runtime.ContentTypeCBOR, "", "application/json; charset=utf-8"}

// FuzzBody: a body of any type is refused and changes nothing, or makes an object that is the same in every type, can be written
// back as it was read without being changed, and can be removed.
func FuzzBody(f *testing.F) {
	d := newDirect(f)
	for n, p := range places {
		text, err := yaml.YAMLToJSON([]byte(p.object))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(n, 0, "", text)
		f.Add(n, 1, "fieldValidation=Strict", []byte(p.object))
		f.Add(n, 1, "dryRun=All", []byte(p.object))
		f.Add(n, 0, "fieldManager=f", []byte(strings.Replace(string(text), `"name"`, `"NAME"`, 1)))
		f.Add(n, 0, "", text[:len(text)/2])
		f.Add(n, 2, "", protobufOf(f, p.path, text))
	}
	manifests, err := filepath.Glob("../../configs/manifests/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range manifests {
		text, err := os.ReadFile(m)
		if err != nil {
			f.Fatal(err)
		}
		for n := range places {
			f.Add(n, 1, "", text)
		}
	}
	for _, b := range []string{
		"", "null", "[]", "{}", "k8s\x00", "k8s\x00\xff\xff\xff\xff", "\xd9\xd9\xf7", "\xd9\xd9\xf7\xff", "--- ", "---\n---\n", "a: &a [*a]", "&a {metadata: *a}", "{\"metadata\":{\"name\":\"a\",\"name\":\"b\"}}", "{\"metadata\":{\"name\":1e999}}",
		`{"metadata":{"name":"a","managedFields":[{"manager":"m","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:x":{}}}]}}`, `{"metadata":{"name":"a","managedFields":[{"fieldsV1":[1]}]}}`, `{"metadata":{"generateName":"a-"}}`,
		`{"metadata":{"name":"a","creationTimestamp":"x","deletionTimestamp":"2026-01-01T00:00:00Z","finalizers":["x"]}}`, `{"metadata":{"name":"a","ownerReferences":[{"uid":1}]}}`, strings.Repeat("[", 20000), strings.Repeat(`{"a":`, 20000), `{"metadata":{"name":"\ud800"}}`,
	} {
		for kind := range bodies {
			f.Add(0, kind, "", []byte(b))
			f.Add(6, kind, "fieldValidation=Strict", []byte(b))
		}
	}
	f.Fuzz(func(t *testing.T, kind, content int, query string, body []byte) {
		if strings.ContainsAny(query, ";%&") {
			return // FuzzPath is for these
		}
		p := places[uint(kind)%uint(len(places))]
		path, h := strings.ReplaceAll(p.path, "NS", d.ns), http.Header{}
		if c := bodies[uint(content)%uint(len(bodies))]; c != "" {
			h.Set("Content-Type", c)
		}
		before := d.db.Revision()
		a := d.ask(t, d.admin, http.MethodPost, path, query, body, h)
		if a.code != 201 {
			if after := d.db.Revision(); after != before && !p.numbers {
				t.Fatalf("%s: %.300q is refused (%d %.300s), and revision %d became %d", path, body, a.code, a.body, before, after)
			}
			return
		}
		made := decoded(t, a)
		if asked, err := url.ParseQuery(query); err == nil && slices.Contains(asked["dryRun"], "All") {
			if after := d.db.Revision(); after != before && !p.numbers {
				t.Fatalf("%s: a dry run made revision %d of %d", path, after, before)
			}
			return
		}
		at := path + "/" + made.GetName()
		d.same(t, at, made)
		d.written(t, at, a)
		d.remove(t, at)
	})
}

// same: an object reads as this one, in each type that there is.
func (d *direct) same(t *testing.T, at string, made *unstructured.Unstructured) {
	t.Helper()
	for _, accept := range []string{runtime.ContentTypeJSON, runtime.ContentTypeYAML, runtime.ContentTypeProtobuf} {
		a := d.ask(t, d.admin, http.MethodGet, at, "", nil, http.Header{"Accept": {accept}})
		if a.code == 500 { // upstream cannot write every text as YAML
			continue
		}
		if a.code != 200 {
			t.Fatalf("%s as %s: %d %s", at, accept, a.code, a.body)
		}
		got, want := withoutTypes(decoded(t, a)), withoutTypes(made)
		if !reflect.DeepEqual(got.Object, want.Object) {
			t.Fatalf("%s as %s: %v, want %v", at, accept, got.Object, want.Object)
		}
	}
}

// written: an object can be written back as it was read and stays what it is; at the latest the second time nothing is written.
func (d *direct) written(t *testing.T, at string, read answer) {
	t.Helper()
	was, json := decoded(t, read), http.Header{"Content-Type": {runtime.ContentTypeJSON}}
	for n := range 2 {
		a := d.ask(t, d.admin, http.MethodPut, at, "", []byte(read.body), json)
		if a.code != 200 {
			t.Fatalf("%s: what was read, %s, is not written back: %d %s", at, read.body, a.code, a.body)
		}
		is := decoded(t, a)
		if n == 1 && is.GetResourceVersion() != was.GetResourceVersion() {
			t.Fatalf("%s: what was written back, %s, is written again as %s", at, read.body, a.body)
		}
		revision := is.GetResourceVersion()
		is.SetResourceVersion(was.GetResourceVersion())
		if !reflect.DeepEqual(is.Object, was.Object) {
			t.Fatalf("%s: %s became %s when it was written back", at, read.body, a.body)
		}
		was.SetResourceVersion(revision)
		read = a
	}
}

func (d *direct) remove(t *testing.T, at string) {
	t.Helper()
	if a := d.ask(t, d.admin, http.MethodPatch, at, "", []byte(`{"metadata":{"finalizers":null}}`), http.Header{"Content-Type": {"application/merge-patch+json"}}); a.code != 200 {
		t.Fatalf("%s: its finalizers do not go: %d %s", at, a.code, a.body)
	}
	if a := d.ask(t, d.admin, http.MethodDelete, at, "gracePeriodSeconds=0", nil, nil); a.code != 200 {
		t.Fatalf("%s does not go: %d %s", at, a.code, a.body)
	}
}

// withoutTypes is an object without the kinds of the templates of claims, for which protobuf has no place.
func withoutTypes(o *unstructured.Unstructured) *unstructured.Unstructured {
	o = o.DeepCopy()
	claims, there, _ := unstructured.NestedSlice(o.Object, "spec", "volumeClaimTemplates")
	if !there {
		return o
	}
	for n := range claims {
		if claim, is := claims[n].(map[string]any); is {
			delete(claim, "apiVersion")
			delete(claim, "kind")
		}
	}
	unstructured.SetNestedSlice(o.Object, claims, "spec", "volumeClaimTemplates")
	return o
}

// decoded is the object of an answer in any type, as JSON would have it.
func decoded(t *testing.T, a answer) *unstructured.Unstructured {
	t.Helper()
	o, content := &unstructured.Unstructured{}, a.header.Get("Content-Type")
	var err error
	switch content {
	case runtime.ContentTypeJSON:
		err = json.Unmarshal([]byte(a.body), &o.Object)
	case runtime.ContentTypeYAML:
		err = yaml.Unmarshal([]byte(a.body), &o.Object)
	case runtime.ContentTypeProtobuf:
		var v runtime.Object
		if v, _, err = legacyscheme.Codecs.UniversalDeserializer().Decode([]byte(a.body), nil, nil); err == nil {
			o.Object, err = plainly(v)
		}
	default:
		t.Fatalf("an answer of type %q", content)
	}
	if err != nil {
		t.Fatalf("%s: %v in %.300q", content, err, a.body)
	}
	return o
}

// plainly is an object as its JSON reads.
func plainly(o runtime.Object) (fields map[string]any, err error) {
	text, err := json.Marshal(o)
	if err == nil {
		err = json.Unmarshal(text, &fields)
	}
	return fields, err
}

// protobufOf is JSON of what a path holds as protobuf.
func protobufOf(f *testing.F, path string, text []byte) []byte {
	f.Helper()
	parts := strings.Split(strings.Trim(path, "/"), "/")
	gv, resource := schema.GroupVersion{Version: parts[1]}, parts[len(parts)-1]
	if parts[0] == "apis" {
		gv = schema.GroupVersion{Group: parts[1], Version: parts[2]}
	}
	for kind, t := range legacyscheme.Scheme.KnownTypes(gv) {
		if strings.ToLower(kind)+"s" != resource && strings.ToLower(kind)+"es" != resource && strings.TrimSuffix(strings.ToLower(kind), "y")+"ies" != resource {
			continue
		}
		o := reflect.New(t).Interface().(runtime.Object)
		if err := json.Unmarshal(text, o); err != nil {
			f.Fatal(err)
		}
		o.GetObjectKind().SetGroupVersionKind(gv.WithKind(kind))
		info, _ := runtime.SerializerInfoForMediaType(legacyscheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
		body, err := runtime.Encode(info.Serializer, o)
		if err != nil { // of batch/v2alpha1, which has no protobuf of its own
			return []byte("k8s\x00")
		}
		return body
	}
	f.Fatalf("no kind of %s", path)
	return nil
}

// target is an object that patches are sent to.
type target struct{ path, object string }

var targets = []target{
	{"/api/v1/namespaces/NS/configmaps", `{"metadata":{"name":"patched","labels":{"x":"y"},"finalizers":["example.com/a"]},"data":{"k":"v"}}`},
	{"/apis/apps/v1/namespaces/NS/deployments", `{"metadata":{"name":"patched"},"spec":{"selector":{"matchLabels":{"x":"y"}},"template":{"metadata":{"labels":{"x":"y"}},"spec":{"containers":[{"name":"c","image":"x","ports":[{"containerPort":80}]}]}}}}`},
	{"/apis/extensions/v1beta1/namespaces/NS/ingresses", `{"metadata":{"name":"patched"},"spec":{"backend":{"serviceName":"s","servicePort":80}}}`},
}

var patches = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml", "application/apply-patch+cbor", ""}

// FuzzPatch: a patch is refused and changes nothing, or the object is still itself, reads the same in every type and can be written back.
func FuzzPatch(f *testing.F) {
	d := newDirect(f)
	for _, p := range []string{
		"", "null", "[]", "{}", `""`, "0", `{"metadata":{"labels":{"a":"b"}}}`, `{"metadata":null}`, `{"metadata":{"name":"other"}}`, `{"metadata":{"uid":"x"}}`, `{"metadata":{"resourceVersion":"1"}}`, `{"metadata":{"namespace":"other"}}`,
		`{"metadata":{"finalizers":null}}`, `{"metadata":{"managedFields":[{}]}}`, `{"metadata":{"managedFields":null}}`, `{"metadata":{"creationTimestamp":null}}`, `{"data":null}`, `{"data":{"$patch":"replace"}}`, `{"$patch":"delete"}`, `{"$patch":"nothing"}`, `{"$retainKeys":[1]}`, `{"$retainKeys":["data"],"data":{}}`,
		`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"z"}]}}}}`, `{"spec":{"template":{"spec":{"containers":[{"$patch":"delete","name":"c"}]}}}}`, `{"spec":{"template":{"spec":{"containers":[{"image":"z"}]}}}}`, `{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"d"},{"name":"c"}],"containers":[{"name":"d","image":"y"}]}}}}`,
		`{"spec":{"template":{"spec":{"$setElementOrder/containers":1}}}}`, `{"spec":{"template":{"spec":{"$deleteFromPrimitiveList/containers":["c"]}}}}`, `{"metadata":{"$deleteFromPrimitiveList/finalizers":["example.com/a"]}}`, `{"metadata":{"$setElementOrder/finalizers":["b","example.com/a"],"finalizers":["b"]}}`, `{"spec":{"replicas":-1}}`, `{"spec":{"replicas":"x"}}`, `{"spec":{"replicas":1e3}}`,
		`{"spec":[]}`, `{"spec":{"selector":{"matchLabels":{"x":null}}}}`, `{"spec":{"template":{"spec":{"containers":[{"name":"c","$patch":"merge","ports":[{"$patch":"replace"},{"containerPort":81}]}]}}}}`, `{"Spec":{"Replicas":3}}`,
		`[{"op":"add","path":"/data/a","value":"b"}]`, `[{"op":"replace","path":"","value":null}]`, `[{"op":"remove","path":"/metadata"}]`, `[{"op":"copy","from":"/spec","path":"/spec/template/x"}]`, `[{"op":"move","from":"/metadata","path":"/metadata/labels"}]`, `[{"op":"test","path":"/data/k","value":"w"}]`, `[{"op":"add","path":"/data/-1","value":1}]`, `[{"op":"nothing"}]`, `[{"op":"add","path":"data","value":1}]`, `[{"op":"add","path":"/metadata/finalizers/999999999","value":"a"}]`, `[{"op":"add","path":"/~2","value":1}]`, `[{"op":"add","path":"/metadata/finalizers/-","value":"b"},{"op":"remove","path":"/metadata/finalizers/0"}]`, `[null]`, `[{"op":"add","path":null}]`, `[{"op":1}]`,
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: patched}\ndata: {k: w}\n", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\n", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: patched}\nspec: {template: {spec: {containers: [{name: c, image: z}, {name: c, image: y}]}}}\n", "apiVersion: v1\nkind: Pod\n", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: patched, managedFields: [{}]}\n",
		"apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: patched}\nspec: {backend: {servicePort: x}}\n", "a: &a [*a]", "--- \n---\n", strings.Repeat(`{"spec":`, 12000), strings.Repeat("[", 12000), "[" + strings.Repeat(`{"op":"copy","from":"/data","path":"/data/a"},`, 50) + `{"op":"test","path":"/x"}]`,
	} {
		for kind := range patches {
			for n := range targets {
				f.Add(n, kind, "", []byte(p))
			}
		}
		f.Add(0, 3, "fieldManager=m&force=true", []byte(p))
		f.Add(1, 3, "fieldManager=m", []byte(p))
		f.Add(1, 2, "fieldValidation=Strict", []byte(p))
	}
	f.Fuzz(func(t *testing.T, which, kind int, query string, body []byte) {
		if strings.ContainsAny(query, ";%") || strings.Contains(query, "dryRun") {
			return
		}
		g := targets[uint(which)%uint(len(targets))]
		path, h := strings.ReplaceAll(g.path, "NS", d.ns), http.Header{}
		if c := patches[uint(kind)%uint(len(patches))]; c != "" {
			h.Set("Content-Type", c)
		}
		at := path + "/patched"
		before := d.ask(t, d.admin, http.MethodGet, at, "", nil, nil)
		if before.code == 404 {
			before = d.ask(t, d.admin, http.MethodPost, path, "", []byte(g.object), http.Header{"Content-Type": {runtime.ContentTypeJSON}})
		}
		was := decoded(t, before)
		revision := d.db.Revision()
		a := d.ask(t, d.admin, http.MethodPatch, at, query, body, h)
		if a.code != 200 {
			if now := d.db.Revision(); now != revision {
				t.Fatalf("%s %.300q is refused (%d %.300s), and revision %d became %d", patches[uint(kind)%uint(len(patches))], body, a.code, a.body, revision, now)
			}
			return
		}
		is := decoded(t, a)
		if is.GetUID() != was.GetUID() || is.GetName() != was.GetName() || is.GetNamespace() != was.GetNamespace() || is.GetCreationTimestamp() != was.GetCreationTimestamp() {
			t.Fatalf("%.300q made another of it: %v", body, is.Object["metadata"])
		}
		d.same(t, at, is)
		d.written(t, at, a)
		if now := d.db.Revision(); now != revision {
			d.remove(t, at)
		}
	})
}
