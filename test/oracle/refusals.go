package main

import (
	"strings"
	"time"
)

// malformed are requests for a kind that no client should send.
func malformed(k *kind, ns string) (out []exchange) {
	list, one := k.list(ns), k.list(ns)+"/nothing"
	add := func(name, method, path, body string, headers ...string) {
		out = append(out, exchange{group: "malformed", name: k.label() + ": " + name, method: method, path: path, body: body, headers: headers})
	}
	body := encode(k.object)
	if k.can("create") {
		add("an empty body", "POST", list, "", "Content-Type: application/json")
		add("half an object", "POST", list, body[:len(body)/2])
		add("null", "POST", list, "null")
		add("a list", "POST", list, "[]")
		add("a number", "POST", list, "5")
		add("another kind", "POST", list, `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"x"}}`)
		add("no kind", "POST", list+"?dryRun=All", strings.Replace(body, `"kind":"`+k.Kind+`"`, `"a":"b"`, 1))
		add("no version", "POST", list+"?dryRun=All", strings.Replace(body, `"apiVersion":"`+k.gv.String()+`"`, `"a":"b"`, 1))
		add("a version that is not there", "POST", list, strings.Replace(body, `"apiVersion":"`+k.gv.String()+`"`, `"apiVersion":"v9"`, 1))
		add("a type of content that is not known", "POST", list, body, "Content-Type: text/plain")
		add("no type of content", "POST", list+"?dryRun=All", body, "Content-Type: ")
		add("JSON that says it is protobuf", "POST", list, body, "Content-Type: application/vnd.kubernetes.protobuf")
		add("JSON that says it is CBOR", "POST", list, body, "Content-Type: application/cbor")
		add("JSON as YAML", "POST", list+"?dryRun=All", body, "Content-Type: application/yaml")
		add("YAML that is none", "POST", list, "a: [", "Content-Type: application/yaml")
		add("only a name", "POST", list+"?dryRun=All", `{"apiVersion":"`+k.gv.String()+`","kind":"`+k.Kind+`","metadata":{"name":"x"}}`)
		add("nothing but the kind", "POST", list+"?dryRun=All", `{"apiVersion":"`+k.gv.String()+`","kind":"`+k.Kind+`"}`)
		add("a strange dry run", "POST", list+"?dryRun=Some", body)
		add("two dry runs", "POST", list+"?dryRun=All&dryRun=All", body)
		add("a strange validation", "POST", list+"?dryRun=All&fieldValidation=Perhaps", body)
		add("a manager's name that is too long", "POST", list+"?dryRun=All&fieldManager="+strings.Repeat("m", 200), body)
		add("a field twice", "POST", list+"?dryRun=All&fieldValidation=Strict", strings.Replace(body, `"metadata":`, `"kind":"`+k.Kind+`","metadata":`, 1))
		add("a field in another case", "POST", list+"?dryRun=All&fieldValidation=Strict", strings.Replace(body, `"metadata":`, `"Metadata":{},"metadata":`, 1))
	}
	add("nothing that can be sent", "GET", list, "", "Accept: text/x-nothing")
	add("a form that is not known", "GET", list, "", "Accept: application/json;as=Poem;v=v1;g=meta.k8s.io")
	add("a method that is none", "PROPFIND", list, "")
	add("put to a list", "PUT", list, body)
	add("patch a list", "PATCH", list, "{}", merge)
	add("post to an object", "POST", one, body)
	add("connect", "CONNECT", one, "")
	add("a subresource that is not there", "GET", one+"/poem", "")
	add("too deep", "GET", one+"/status/more/and/more", "")
	add("a strange name", "GET", list+"/No_Such!", "")
	add("a name with a slash in it", "GET", list+"/a%2Fb", "")
	add("a slash at the end", "GET", list+"/?labelSelector=none", "")
	add("in two namespaces", "GET", strings.Replace(list, "/namespaces/", "/namespaces/x/namespaces/", 1)+"?labelSelector=none", "")
	return out
}

// paths that lead nowhere, or where no kind is.
func paths() (out []exchange) {
	for _, path := range []string{
		"/", "/api", "/api/", "/api/v1", "/api/v1/", "/api/v2", "/apis", "/apis/", "/apis/apps", "/apis/apps/", "/apis/apps/v1", "/apis/apps/v9", "/apis/nothing", "/apis/nothing/v1", "/apis/nothing/v1/things", "/api/v1/nothings",
		"/api/v1/namespaces/default/nothings", "/api/v1/namespaces/default/nothings/x", "/api//v1", "/api/v1/../../etc/passwd", "/api/v1/%2e%2e/x", "/nothing", "/healthz", "/healthz/ping", "/healthz/nothing", "/livez", "/livez/ping", "/readyz", "/readyz/ping", "/livez?exclude=ping",
		"/version", "/version/", "/swagger.json", "/openapi", "/openapi/v2/x", "/openapi/v3/nothing", "/openapi/v3/apis/nothing/v1", "/.well-known/openid-configuration/x", "/openid/v1/jwks/x", "/debug", "/debug/nothing", "/metrics/nothing", "/api/v1/watch", "/api/v1/watch/", "/api/v1/watch/nothings",
		"/api/v1/proxy/namespaces/default/pods/x", "/api/v1/namespaces/default/pods/x:y:z/proxy/", "/api/v1/namespaces/default/services/nothing/proxy/", "/api/v1/namespaces/default/services/https:nothing:port/proxy/a?b=c", "/api/v1/nodes/nothing/proxy/stats", "/api/v1/namespaces/default/pods/nothing/log", "/api/v1/namespaces/default/pods/nothing/log?container=c&follow=x",
		"/api/v1/namespaces/default/pods/nothing/log?tailLines=-1", "/api/v1/namespaces/default/pods/nothing/log?sinceSeconds=0", "/api/v1/namespaces/default/pods/nothing/log?limitBytes=0", "/api/v1/namespaces/default/pods/nothing/log?sinceSeconds=5&sinceTime=2026-01-02T03:04:05Z", "/api/v1/namespaces/default/pods/nothing/exec", "/api/v1/namespaces/default/pods/nothing/attach",
		"/api/v1/namespaces/default/pods/nothing/portforward", "/api/v1/componentstatuses/nothing",
	} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			out = append(out, exchange{group: "paths", name: method + " " + path, method: method, path: path})
		}
	}
	return out
}

// refusals ask for everything as somebody who may do nothing, and as nobody.
func refusals(k *kind, ns string) (out []exchange) {
	list, one := k.list(ns), k.one(ns)
	for _, as := range []string{"alice", "system:serviceaccount:" + ns + ":o", "system:node:n"} {
		add := func(verb, method, path, body string, headers ...string) {
			out = append(out, exchange{group: "rights", name: k.label() + ": " + as + " would " + verb, method: method, path: path, body: body, headers: headers, as: as})
		}
		add("list", "GET", list, "")
		add("list all", "GET", k.all(), "")
		add("watch", "GET", list+"?watch=1&timeoutSeconds=1", "")
		add("get", "GET", one, "")
		add("create", "POST", list+"?dryRun=All", encode(k.object))
		add("update", "PUT", one+"?dryRun=All", encode(k.object))
		add("patch", "PATCH", one+"?dryRun=All", "{}", merge)
		add("delete", "DELETE", one+"?dryRun=All", "")
		add("delete many", "DELETE", list+"?dryRun=All&labelSelector=none", "")
		for _, sub := range k.subs {
			add("get its "+sub.Name, "GET", one+"/"+sub.Name, "")
		}
	}
	return out
}

// identities are asked for by headers.
func identities(ns string) (out []exchange) {
	review := `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`
	for name, headers := range map[string][]string{
		"a token that is none": {"Authorization: Bearer nonsense", "Impersonate-User: ", "Impersonate-Group: "}, "a header that is none": {"Authorization: Nonsense", "Impersonate-User: ", "Impersonate-Group: "}, "a password": {"Authorization: Basic YTpi", "Impersonate-User: ", "Impersonate-Group: "},
		"a group without a user": {"Impersonate-User: ", "Impersonate-Group: g"}, "a user": {"Impersonate-User: u", "Impersonate-Group: "}, "a user with a group": {"Impersonate-User: u", "Impersonate-Group: g"}, "a service account": {"Impersonate-User: system:serviceaccount:a:b", "Impersonate-Group: "},
		"nobody": {"Impersonate-User: system:anonymous", "Impersonate-Group: "}, "an identity": {"Impersonate-User: u", "Impersonate-Group: ", "Impersonate-Uid: 5"}, "more about it": {"Impersonate-User: u", "Impersonate-Group: ", "Impersonate-Extra-example.com%2Fa: b"},
	} {
		alone := strings.HasPrefix(headers[0], "Authorization")
		out = append(out, exchange{group: "rights", name: "who am I with " + name, method: "POST", path: "/apis/authentication.k8s.io/v1/selfsubjectreviews", body: review, headers: headers, alone: alone})
	}
	for name, spec := range map[string]string{
		"selfsubjectaccessreviews: pods": `{"resourceAttributes":{"verb":"get","resource":"pods"}}`, "selfsubjectaccessreviews: nothing": `{}`, "selfsubjectaccessreviews: both": `{"resourceAttributes":{"verb":"get"},"nonResourceAttributes":{"verb":"get","path":"/x"}}`,
		"selfsubjectaccessreviews: a path": `{"nonResourceAttributes":{"verb":"get","path":"/healthz"}}`, "selfsubjectaccessreviews: a selector": `{"resourceAttributes":{"verb":"list","resource":"pods","labelSelector":{"requirements":[{"key":"a","operator":"In","values":["b"]}]}}}`,
		"selfsubjectaccessreviews: a bad selector": `{"resourceAttributes":{"verb":"list","resource":"pods","fieldSelector":{"rawSelector":"a=b","requirements":[{"key":"a","operator":"Dance"}]}}}`,
		"subjectaccessreviews: a user":             `{"user":"alice","resourceAttributes":{"namespace":"x","verb":"get","resource":"pods"}}`, "subjectaccessreviews: nobody": `{"resourceAttributes":{"verb":"get","resource":"pods"}}`, "subjectaccessreviews: a master": `{"user":"a","groups":["system:masters"],"resourceAttributes":{"verb":"*","group":"*","resource":"*"}}`,
		"subjectaccessreviews: a node": `{"user":"system:node:n","groups":["system:nodes"],"resourceAttributes":{"verb":"get","resource":"secrets","namespace":"x","name":"y"}}`, "subjectaccessreviews: a node's pods": `{"user":"system:node:n","groups":["system:nodes"],"resourceAttributes":{"verb":"list","resource":"pods"}}`,
		"subjectaccessreviews: discovery": `{"user":"alice","groups":["system:authenticated"],"nonResourceAttributes":{"verb":"get","path":"/api"}}`, "selfsubjectrulesreviews: a namespace": `{"namespace":"default"}`, "selfsubjectrulesreviews: none": `{}`,
	} {
		resource, what, _ := strings.Cut(name, ": ")
		kind := map[string]string{"selfsubjectaccessreviews": "SelfSubjectAccessReview", "subjectaccessreviews": "SubjectAccessReview", "selfsubjectrulesreviews": "SelfSubjectRulesReview"}[resource]
		body := `{"apiVersion":"authorization.k8s.io/v1","kind":"` + kind + `","spec":` + spec + `}`
		for _, as := range []string{"", "alice", "system:node:n", "system:kube-scheduler"} {
			out = append(out, exchange{group: "rights", name: resource + " by " + as + ": " + what, method: "POST", path: "/apis/authorization.k8s.io/v1/" + resource, body: body, as: as})
		}
	}
	out = append(out,
		exchange{group: "rights", name: "a local review", method: "POST", path: "/apis/authorization.k8s.io/v1/namespaces/" + ns + "/localsubjectaccessreviews", body: `{"apiVersion":"authorization.k8s.io/v1","kind":"LocalSubjectAccessReview","metadata":{"namespace":"` + ns + `"},"spec":{"user":"u","resourceAttributes":{"namespace":"` + ns + `","verb":"get","resource":"pods"}}}`},
		exchange{group: "rights", name: "a local review of another namespace", method: "POST", path: "/apis/authorization.k8s.io/v1/namespaces/" + ns + "/localsubjectaccessreviews", body: `{"apiVersion":"authorization.k8s.io/v1","kind":"LocalSubjectAccessReview","metadata":{"namespace":"` + ns + `"},"spec":{"user":"u","resourceAttributes":{"namespace":"x","verb":"get","resource":"pods"}}}`},
		exchange{group: "rights", name: "a token's review", method: "POST", path: "/apis/authentication.k8s.io/v1/tokenreviews", body: `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"nonsense"}}`},
		exchange{group: "rights", name: "a review of no token", method: "POST", path: "/apis/authentication.k8s.io/v1/tokenreviews", body: `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{}}`},
		exchange{group: "rights", name: "alice impersonates", method: "POST", path: "/apis/authentication.k8s.io/v1/tokenreviews", body: "{}", as: "alice"},
	)
	return append(out, escalation(ns)...)
}

// escalation is what somebody does with rights over rights.
func escalation(ns string) (out []exchange) {
	rbac := "/apis/rbac.authorization.k8s.io/v1/"
	step := func(name, as, method, path, body string) {
		out = append(out, exchange{group: "rights", name: "escalation: " + name, method: method, path: path, body: body, as: as, once: true})
	}
	in := rbac + "namespaces/" + ns
	step("a role for roles", "", "POST", in+"/roles", `{"metadata":{"name":"keeper"},"rules":[{"apiGroups":["rbac.authorization.k8s.io"],"resources":["roles","rolebindings"],"verbs":["*"]},{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]}`)
	step("given", "", "POST", in+"/rolebindings", `{"metadata":{"name":"keeper"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"keeper"},"subjects":[{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"alice"}]}`)
	// Who decides about rights reads them behind the store.
	out = append(out, exchange{name: "setup", method: "GET", path: in + "/roles", as: "alice", setup: true, patience: 20 * time.Second, must: 200})
	step("what she has", "alice", "POST", in+"/roles", `{"metadata":{"name":"mine"},"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]}`)
	step("what she has not", "alice", "POST", in+"/roles", `{"metadata":{"name":"more"},"rules":[{"apiGroups":[""],"resources":["pods","secrets"],"verbs":["get","list"]},{"apiGroups":["apps"],"resources":["deployments"],"verbs":["*"],"resourceNames":["x"]}]}`)
	step("changed to what she has not", "alice", "PUT", in+"/roles/mine", `{"metadata":{"name":"mine"},"rules":[{"apiGroups":["*"],"resources":["*"],"verbs":["*"]}]}`)
	step("bound to what she has not", "alice", "POST", in+"/rolebindings", `{"metadata":{"name":"more"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"admin"},"subjects":[{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"alice"}]}`)
	step("bound to what is not there", "alice", "POST", in+"/rolebindings", `{"metadata":{"name":"none"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"nothing"},"subjects":[]}`)
	step("bound to what she has", "alice", "POST", in+"/rolebindings", `{"metadata":{"name":"same"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"mine"},"subjects":[{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"bob"}]}`)
	step("her pods", "alice", "GET", "/api/v1/namespaces/"+ns+"/pods/nothing", "")
	step("her secrets", "alice", "GET", "/api/v1/namespaces/"+ns+"/secrets/nothing", "")
	step("her rules", "alice", "POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", `{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectRulesReview","spec":{"namespace":"`+ns+`"}}`)
	step("another role of a binding", "", "PATCH", in+"/rolebindings/keeper", `{}`)
	return out
}

// documents are what a client reads before it asks for anything.
func documents(kinds []*kind) (out []exchange) {
	add := func(path string, headers ...string) {
		out = append(out, exchange{group: "discovery", name: path + " " + strings.Join(headers, " "), method: "GET", path: path, headers: headers})
	}
	seen := map[string]bool{}
	for _, k := range kinds {
		path := strings.TrimSuffix(k.all(), "/"+k.Name)
		if seen[path] {
			continue
		}
		seen[path] = true
		add(path)
		add(path, protobuf)
		add(path, asYAML)
		add(strings.TrimSuffix(path, "/"+k.gv.Version))
		add("/openapi/v3" + path)
	}
	add("/openapi/v2", "Accept: application/json")
	for _, path := range []string{"/api", "/version", "/openid/v1/jwks/"} {
		for _, accept := range []string{"Accept: application/json", asYAML, protobuf, "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "Accept: application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList", "Accept: text/html"} {
			add(path, accept)
		}
	}
	return out
}
