package main

import (
	"fmt"
	"strings"
	"time"
)

const (
	merge     = "Content-Type: application/merge-patch+json"
	strategic = "Content-Type: application/strategic-merge-patch+json"
	jsonPatch = "Content-Type: application/json-patch+json"
	apply     = "Content-Type: application/apply-patch+yaml"
	asTable   = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io"
	asPartial = "Accept: application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
	partials  = "Accept: application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
	protobuf  = "Accept: application/vnd.kubernetes.protobuf"
	asCBOR    = "Accept: application/cbor"
	asYAML    = "Accept: application/yaml"
)

// create is how the life of an object begins: it stays until end.
func create(k *kind, ns string) []exchange {
	body := encode(k.object)
	e := func(name, query string, headers ...string) exchange {
		return exchange{group: "create", name: k.label() + ": " + name, method: "POST", path: k.list(ns) + query, body: body, headers: headers, once: true}
	}
	made := e("created", "?fieldValidation=Strict&fieldManager=first")
	made.must = 201
	out := []exchange{
		e("dry run", "?dryRun=All"),
		made,
		e("again", ""),
		e("answered as a table", "?dryRun=All", asTable),
		e("answered as metadata", "?dryRun=All", asPartial),
	}
	generated := clone(k.object)
	meta := generated["metadata"].(map[string]any)
	delete(meta, "name")
	meta["generateName"] = "gen-"
	g := e("with a name that is made", "?dryRun=All")
	g.body = encode(generated)
	foreign := clone(k.object)
	foreign["metadata"].(map[string]any)["namespace"] = "elsewhere"
	f := e("of another namespace", "?dryRun=All")
	f.body = encode(foreign)
	revised := clone(k.object)
	revised["metadata"].(map[string]any)["resourceVersion"] = "5"
	v := e("with a revision", "?dryRun=All")
	v.body = encode(revised)
	nowhere := e("in a namespace that is not there", "")
	nowhere.path = strings.Replace(nowhere.path, ns, "nowhere", 1)
	return append(out, g, f, v, nowhere)
}

// gets reads one object in every form.
func gets(k *kind, ns string) (out []exchange) {
	for _, query := range []string{"", "?pretty=true", "?resourceVersion=0", "?resourceVersion=1", "?resourceVersion=abc", "?resourceVersion=$VERSION"} {
		out = append(out, exchange{group: "get", name: k.label() + ": " + query, method: "GET", path: k.one(ns) + query, of: k.one(ns)})
	}
	for _, accept := range []string{asTable, asPartial, protobuf, asYAML, asCBOR, partials, "Accept: text/html", "Accept: */*", "Accept: application/*", "Accept: text/plain,application/yaml;q=0.5",
		"Accept: application/json;as=Table;v=v1beta1;g=meta.k8s.io", "Accept: application/json;as=Nothing;v=v1;g=meta.k8s.io", "Accept: application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json",
		"Accept: application/yaml;as=Table;v=v1;g=meta.k8s.io", "Accept: application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"} {
		out = append(out, exchange{group: "get", name: k.label() + ": " + accept, method: "GET", path: k.one(ns), headers: []string{accept}})
	}
	for _, include := range []string{"None", "Object", "Metadata", "Nonsense"} {
		out = append(out, exchange{group: "get", name: k.label() + ": a table with " + include, method: "GET", path: k.one(ns) + "?includeObject=" + include, headers: []string{asTable}})
	}
	return append(out, exchange{group: "get", name: k.label() + ": what is not there", method: "GET", path: k.list(ns) + "/nothing"},
		exchange{group: "get", name: k.label() + ": HEAD", method: "HEAD", path: k.one(ns)},
		exchange{group: "get", name: k.label() + ": OPTIONS", method: "OPTIONS", path: k.one(ns)})
}

// changes are updates and patches of one object, each a dry run but those that later ones build on.
func changes(k *kind, ns string) []exchange {
	var l life
	if k.can("update") {
		l.updates(k, ns)
	}
	if k.can("patch") {
		l.patches(k, ns)
		l.applies(k, ns)
	}
	return l
}

// life is what one object goes through, in order.
type life []exchange

func (l *life) add(k *kind, ns, name, method, query, body string, headers ...string) *exchange {
	*l = append(*l, exchange{group: "patch", name: k.label() + ": " + name, method: method, path: k.one(ns) + query, body: body, headers: headers, once: !strings.Contains(query, "dryRun")})
	return &(*l)[len(*l)-1]
}

func (l *life) updates(k *kind, ns string) {
	put := func(name, query string, edit func(o map[string]any)) *exchange {
		e := l.add(k, ns, name, "PUT", query, "")
		e.group, e.edit = "update", edit
		return e
	}
	meta := func(o map[string]any) map[string]any {
		if o["metadata"] == nil { // nothing was there
			o["metadata"] = map[string]any{}
		}
		return o["metadata"].(map[string]any)
	}
	put("nothing", "", func(map[string]any) {})
	put("a label", "?fieldManager=second", func(o map[string]any) { meta(o)["labels"] = map[string]any{"app": "web", "new": "x"} })
	put("without a revision", "?dryRun=All", func(o map[string]any) { delete(meta(o), "resourceVersion") })
	put("an old revision", "?dryRun=All", func(o map[string]any) { meta(o)["resourceVersion"] = "1" })
	put("another identity", "?dryRun=All", func(o map[string]any) { meta(o)["uid"] = "4dbe1d63-0000-4000-8000-000000000000" })
	put("another name", "?dryRun=All", func(o map[string]any) { meta(o)["name"] = "other" })
	put("another kind", "?dryRun=All", func(o map[string]any) { o["kind"] = "Other" })
	put("an unknown field, strictly", "?dryRun=All&fieldValidation=Strict", func(o map[string]any) { o["unknown"] = 1 })
	put("an unknown field, with a warning", "?dryRun=All&fieldValidation=Warn", func(o map[string]any) { o["unknown"] = 1 })
	put("a finalizer without a domain", "?dryRun=All", func(o map[string]any) { meta(o)["finalizers"] = []any{"nonsense"} })
	put("two that own it", "?dryRun=All", func(o map[string]any) {
		owner := map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "1", "controller": true}
		second := clone(owner)
		second["uid"] = "2"
		meta(o)["ownerReferences"] = []any{owner, second}
	})
	e := put("what is not there", "", func(map[string]any) {})
	e.path, e.edit, e.body = k.list(ns)+"/nothing", nil, strings.Replace(encode(k.object), `"name":"`+k.name()+`"`, `"name":"nothing"`, 1)
}

func (l *life) patches(k *kind, ns string) {
	add := func(name, method, query, body string, headers ...string) *exchange {
		return l.add(k, ns, name, method, query, body, headers...)
	}
	add("merge a label", "PATCH", "?fieldManager=second", `{"metadata":{"labels":{"merged":"x"}}}`, merge)
	add("merge a label away", "PATCH", "?fieldManager=second", `{"metadata":{"labels":{"merged":null}}}`, merge)
	add("merge nothing", "PATCH", "?dryRun=All", `{}`, merge)
	add("merge nonsense", "PATCH", "?dryRun=All", `{"metadata":{"labels":5}}`, merge)
	add("merge an unknown field", "PATCH", "?dryRun=All&fieldValidation=Strict", `{"unknown":5}`, merge)
	add("merge the same field twice", "PATCH", "?dryRun=All&fieldValidation=Strict", `{"metadata":{"labels":{"a":"b"},"labels":{"a":"c"}}}`, merge)
	add("merge with an old revision", "PATCH", "?dryRun=All", `{"metadata":{"resourceVersion":"1"}}`, merge)
	add("merge what is no JSON", "PATCH", "?dryRun=All", `{`, merge)
	add("merge a list", "PATCH", "?dryRun=All", `[]`, merge)
	add("merge a name", "PATCH", "?dryRun=All", `{"metadata":{"name":"other"}}`, merge)
	add("merge into what is not there", "PATCH", "", `{"metadata":{"labels":{"a":"b"}}}`, merge).path = k.list(ns) + "/nothing"
	add("strategic label", "PATCH", "?dryRun=All", `{"metadata":{"labels":{"s":"x"}}}`, strategic)
	add("strategic replacement", "PATCH", "?dryRun=All", `{"metadata":{"labels":{"$patch":"replace","only":"x"}}}`, strategic)
	add("strategic deletion", "PATCH", "?dryRun=All", `{"metadata":{"labels":{"$patch":"delete"}}}`, strategic)
	add("strategic nonsense", "PATCH", "?dryRun=All", `{"metadata":{"labels":{"$patch":"dance"}}}`, strategic)
	add("strategic keys that are kept", "PATCH", "?dryRun=All", `{"metadata":{"labels":{"$retainKeys":["a"],"a":"b"}}}`, strategic)
	add("strategic finalizers", "PATCH", "?dryRun=All", `{"metadata":{"finalizers":["example.com/a"],"$deleteFromPrimitiveList/finalizers":["example.com/b"]}}`, strategic)
	add("operations", "PATCH", "?dryRun=All", `[{"op":"add","path":"/metadata/labels/j","value":"x"},{"op":"test","path":"/metadata/labels/app","value":"web"},{"op":"copy","from":"/metadata/labels/app","path":"/metadata/labels/c"}]`, jsonPatch)
	add("an operation whose test fails", "PATCH", "?dryRun=All", `[{"op":"test","path":"/metadata/labels/app","value":"other"}]`, jsonPatch)
	add("an operation on what is missing", "PATCH", "?dryRun=All", `[{"op":"remove","path":"/metadata/labels/missing"}]`, jsonPatch)
	add("an operation that is none", "PATCH", "?dryRun=All", `[{"op":"dance","path":"/metadata"}]`, jsonPatch)
	add("an operation without a list", "PATCH", "?dryRun=All", `{"op":"add"}`, jsonPatch)
	add("operations on an unknown field", "PATCH", "?dryRun=All&fieldValidation=Strict", `[{"op":"add","path":"/unknown","value":1}]`, jsonPatch)
	add("too many operations", "PATCH", "?dryRun=All", "["+strings.TrimSuffix(strings.Repeat(`{"op":"test","path":"/metadata/labels/app","value":"web"},`, 10001), ",")+"]", jsonPatch)
	add("a patch of no known type", "PATCH", "?dryRun=All", `{}`, "Content-Type: application/json")
	add("a patch of no type", "PATCH", "?dryRun=All", `{}`, "Content-Type: ")
}

// applies are server-side applies by two managers.
func (l *life) applies(k *kind, ns string) {
	apiVersion := k.gv.String()
	add := func(name, method, query, body string, headers ...string) *exchange {
		return l.add(k, ns, name, method, query, body, headers...)
	}
	head := fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":%q`, apiVersion, k.Kind, k.name())
	add("apply without a manager", "PATCH", "?dryRun=All", head+`}}`, apply)
	add("apply", "PATCH", "?fieldManager=applier", head+`,"labels":{"applied":"x"}}}`, apply)
	add("apply the same", "PATCH", "?fieldManager=applier", head+`,"labels":{"applied":"x"}}}`, apply)
	add("apply by another", "PATCH", "?fieldManager=other", head+`,"labels":{"applied":"y"}}}`, apply)
	add("apply by another, forced", "PATCH", "?fieldManager=other&force=true&dryRun=All", head+`,"labels":{"applied":"y"}}}`, apply)
	add("apply less", "PATCH", "?fieldManager=applier", head+`}}`, apply)
	add("apply what another updated", "PATCH", "?fieldManager=applier&dryRun=All", head+`,"labels":{"app":"changed"}}}`, apply)
	add("apply an unknown field", "PATCH", "?fieldManager=applier&dryRun=All", head+`},"unknown":1}`, apply)
	add("apply a wrong type", "PATCH", "?fieldManager=applier&dryRun=All", head+`,"labels":[1]}}`, apply)
	add("apply another name", "PATCH", "?fieldManager=applier&dryRun=All", strings.Replace(head, k.name(), "other", 1)+`}}`, apply)
	add("apply another kind", "PATCH", "?fieldManager=applier&dryRun=All", `{"apiVersion":"v1","kind":"Other","metadata":{"name":"o"}}`, apply)
	add("apply another version", "PATCH", "?fieldManager=applier&dryRun=All", strings.Replace(head, apiVersion, "v9", 1)+`}}`, apply)
	add("apply with managed fields", "PATCH", "?fieldManager=applier&dryRun=All", head+`,"managedFields":[{"manager":"x","operation":"Apply","fieldsType":"FieldsV1","fieldsV1":{}}]}}`, apply)
	add("apply what is no YAML", "PATCH", "?fieldManager=applier&dryRun=All", "a: [", apply)
	add("apply with a manager's name that is too long", "PATCH", "?dryRun=All&fieldManager="+strings.Repeat("m", 200), head+`}}`, apply)
	whole := clone(k.object)
	add("apply the whole", "PATCH", "?fieldManager=whole&force=true&dryRun=All", encode(whole), apply)
	add("apply the whole, with conflicts", "PATCH", "?fieldManager=whole&dryRun=All", encode(whole), apply)
	if k.can("create") {
		made := clone(k.object)
		made["metadata"].(map[string]any)["name"] = "made"
		add("apply into being", "PATCH", "?fieldManager=applier&dryRun=All", encode(made), apply).path = k.list(ns) + "/made?fieldManager=applier&dryRun=All"
	}
	add("force without applying", "PATCH", "?force=true&dryRun=All", `{}`, merge)
}

// statuses are what is asked of the subresource that controllers write.
func statuses(k *kind, ns string) (out []exchange) {
	for _, sub := range k.subs {
		path := k.one(ns) + "/" + sub.Name
		add := func(name, method, query, body string, headers ...string) {
			out = append(out, exchange{group: "subresources", name: k.label() + "/" + sub.Name + ": " + name, method: method, path: path + query, body: body, headers: headers})
		}
		if sub.Name != "status" && sub.Name != "scale" && sub.Name != "ephemeralcontainers" && sub.Name != "resize" && sub.Name != "approval" && sub.Name != "finalize" {
			continue
		}
		add("get", "GET", "", "")
		add("get as a table", "GET", "", "", asTable)
		add("get as protobuf", "GET", "", "", protobuf)
		add("merge a label", "PATCH", "?dryRun=All", `{"metadata":{"labels":{"sub":"x"}}}`, merge)
		add("merge into the specification", "PATCH", "?dryRun=All", `{"spec":{"replicas":9}}`, merge)
		add("merge a negative number", "PATCH", "?dryRun=All", `{"spec":{"replicas":-9},"status":{"replicas":-1}}`, merge)
		add("merge a condition", "PATCH", "?dryRun=All", `{"status":{"conditions":[{"type":"Good","status":"True","reason":"R","message":"m","lastTransitionTime":"2026-01-02T03:04:05Z"}]}}`, merge)
		add("merge a strange status", "PATCH", "?dryRun=All&fieldValidation=Strict", `{"status":{"nothing":"of this"}}`, merge)
		add("merge a status of another type", "PATCH", "?dryRun=All", `{"status":5}`, merge)
		add("operations", "PATCH", "?dryRun=All", `[{"op":"replace","path":"/metadata/labels","value":{"a":"b"}}]`, jsonPatch)
		out = append(out,
			exchange{group: "subresources", name: k.label() + "/" + sub.Name + ": put", method: "PUT", path: path + "?dryRun=All", edit: func(map[string]any) {}},
			exchange{group: "subresources", name: k.label() + "/" + sub.Name + ": put another name", method: "PUT", path: path + "?dryRun=All", edit: func(o map[string]any) {
				if m, ok := o["metadata"].(map[string]any); ok {
					m["name"] = "other"
				}
			}},
			exchange{group: "subresources", name: k.label() + "/" + sub.Name + ": of what is not there", method: "GET", path: k.list(ns) + "/nothing/" + sub.Name},
			exchange{group: "subresources", name: k.label() + "/" + sub.Name + ": delete", method: "DELETE", path: path},
			exchange{group: "subresources", name: k.label() + "/" + sub.Name + ": post", method: "POST", path: path, body: "{}"},
		)
	}
	return out
}

// end is how the life of an object ends.
func end(k *kind, ns string) (out []exchange) {
	if !k.can("delete") {
		return nil
	}
	add := func(name, path, body string, headers ...string) {
		out = append(out, exchange{group: "delete", name: k.label() + ": " + name, method: "DELETE", path: path, body: body, headers: headers, once: !strings.Contains(path+body, "dryRun"), of: k.one(ns)})
	}
	one := k.one(ns)
	add("dry run", one+"?dryRun=All", "")
	add("dry run in the body", one, `{"dryRun":["All"]}`)
	add("options of another kind", one, `{"apiVersion":"v1","kind":"Pod"}`)
	add("options with an unknown field", one, `{"unknown":1,"dryRun":["All"]}`) // a body's options count, and the query's don't
	add("options that are no JSON", one, `{`)
	add("another identity", one, `{"preconditions":{"uid":"4dbe1d63-0000-4000-8000-000000000000"}}`)
	add("another revision", one, `{"preconditions":{"resourceVersion":"1"}}`)
	add("its own identity", one, `{"dryRun":["All"],"preconditions":{"uid":"$UID","resourceVersion":"$VERSION"}}`)
	add("a propagation that is none", one, `{"propagationPolicy":"Sideways"}`)
	add("two propagations", one, `{"propagationPolicy":"Orphan","orphanDependents":true}`)
	add("orphaning, dry", one+"?dryRun=All&propagationPolicy=Orphan", "")
	add("a negative grace", one+"?dryRun=All&gracePeriodSeconds=-5", "")
	add("a grace that is no number", one+"?gracePeriodSeconds=soon", "")
	if k.can("deletecollection") {
		add("many that are none", k.list(ns)+"?labelSelector=app%3Dnone", "")
		add("many, dry", k.list(ns)+"?dryRun=All&labelSelector=app%3Dweb&fieldSelector=metadata.name%3D"+k.name(), "")
		add("many by a bad selector", k.list(ns)+"?labelSelector=%3D%3D", "")
		add("many with bad options", k.list(ns)+"?labelSelector=app%3Dnone", `{"kind":"Pod","apiVersion":"v1"}`)
	}
	add("in the foreground", one+"?propagationPolicy=Foreground", "")
	if k.Kind == "CustomResourceDefinition" { // the server itself takes its finalizer away, in its own time
		return out
	}
	// Servers write the states of some by themselves, in their own time.
	out = append(out, exchange{group: "delete", name: k.label() + ": as it is then", method: "GET", path: one, once: true, patience: 10 * time.Second})
	if k.can("patch") {
		out = append(out, exchange{group: "delete", name: k.label() + ": its finalizers taken away", method: "PATCH", path: one, body: `{"metadata":{"finalizers":null}}`, headers: []string{merge}, once: true})
	}
	add("at once", one, `{"gracePeriodSeconds":0,"propagationPolicy":"Background"}`)
	add("again", one, "")
	return out
}
