package main

import (
	"fmt"
	"slices"
	"strings"
)

// crowd is the resource on which lists and watches are tried in full: its objects have names and labels in an order.
const crowd = "configmaps"

func populate(ns string) (out []exchange) {
	for i := range 7 {
		body := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"crowd-%d","labels":{"crowd":"yes","odd":"%t","n":"%d"}},"data":{"i":"%d"}}`, i, i%2 == 1, i, i)
		out = append(out, exchange{group: "create", name: fmt.Sprintf("crowd %d", i), method: "POST", path: core(ns) + crowd, body: body, once: true})
	}
	for i := range 5 {
		phase := []string{"a", "b"}[i%2]
		body := fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"crowd-%d","labels":{"crowd":"yes","n":"%d"}},"spec":{"nodeName":%q,"schedulerName":"nobody","restartPolicy":"Never","tolerations":[{"operator":"Exists"}],"containers":[{"name":"c","image":"i"}]}}`, i, i, phase)
		out = append(out, exchange{group: "create", name: fmt.Sprintf("a crowd's pod %d", i), method: "POST", path: core(ns) + "pods", body: body, once: true})
	}
	return out
}

func core(ns string) string { return "/api/v1/namespaces/" + ns + "/" }

// lists asks for the lists of a kind in every form.
func lists(k *kind, ns string) (out []exchange) {
	if !k.can("list") {
		return nil
	}
	// Of the run's own: both servers have objects of their own in other namespaces, and of kinds that have none.
	mine := "labelSelector=app%3Dweb&fieldSelector=metadata.name%3D" + k.name()
	add := func(name, query string, headers ...string) {
		out = append(out, exchange{group: "list", name: k.label() + ": " + name, method: "GET", path: k.list(ns) + "?" + query, headers: headers})
	}
	add("plain", mine)
	add("of the cache", mine+"&resourceVersion=0")
	for _, accept := range []string{asTable, partials, protobuf, asYAML, asCBOR, asPartial, "Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json"} {
		add(accept, mine, accept)
	}
	add("a table with objects", mine+"&includeObject=Object", asTable)
	add("by name", "fieldSelector=metadata.name%3D"+k.name())
	add("by another's name", "fieldSelector=metadata.name%3Dother")
	add("by namespace", mine+",metadata.namespace%3D"+ns)
	add("by a field that cannot be selected", "fieldSelector=spec.nothing%3Dx")
	add("by nonsense", "labelSelector=app%3Dnone&fieldSelector=%3D%3D")
	add("by a label that is there", "labelSelector=app,tier&fieldSelector=metadata.name%3D"+k.name())
	add("limited", mine+"&limit=1")
	add("with a bad limit", mine+"&limit=x")
	add("with a negative limit", mine+"&limit=-1")
	add("with a bad token", mine+"&limit=1&continue=bm9uc2Vuc2U")
	out = append(out, exchange{group: "list", name: k.label() + ": everywhere", method: "GET", path: k.all() + "?" + mine},
		exchange{group: "list", name: k.label() + ": watch by the old path", method: "GET", path: strings.Replace(k.list(ns), k.gv.Version+"/", k.gv.Version+"/watch/", 1) + "?timeoutSeconds=1&" + mine},
		exchange{group: "list", name: k.label() + ": watch", method: "GET", path: k.list(ns) + "?watch=1&timeoutSeconds=1&" + mine},
		exchange{group: "list", name: k.label() + ": watch as tables", method: "GET", path: k.list(ns) + "?watch=1&timeoutSeconds=1&" + mine, headers: []string{asTable}},
		exchange{group: "list", name: k.label() + ": watch as protobuf", method: "GET", path: k.list(ns) + "?watch=1&timeoutSeconds=1&" + mine, headers: []string{protobuf}})
	return out
}

// listOptions tries what combines with what.
func listOptions(ns string) []exchange {
	return slices.Concat(queries(ns), pages(ns), selections(ns))
}

func queries(ns string) (out []exchange) {
	path := core(ns) + crowd
	add := func(query string, headers ...string) {
		out = append(out, exchange{group: "list options", name: query + strings.Join(headers, " "), method: "GET", path: path + "?" + query, headers: headers, of: path})
	}
	for _, version := range []string{"", "resourceVersion=0", "resourceVersion=$VERSION", "resourceVersion=1", "resourceVersion=999999999999999", "resourceVersion=x", "resourceVersion=-1"} {
		for _, match := range []string{"", "resourceVersionMatch=Exact", "resourceVersionMatch=NotOlderThan", "resourceVersionMatch=Nearly"} {
			for _, limit := range []string{"", "limit=2", "limit=0", "limit=500", "limit=2&continue=x"} {
				add(strings.Join([]string{"labelSelector=crowd", version, match, limit}, "&"))
			}
		}
	}
	for _, selector := range []string{"odd=true", "odd==true", "odd!=true", "odd in (true,false)", "odd notin (true)", "!odd", "odd", "n>3", "n<3", "n>x", "n in ()", "n in (1", "odd=true,n=1", "odd=true,odd=false", ",", "a b", "-a=b", "a=-b", "x/y/z=1", strings.Repeat("k", 70), "a=" + strings.Repeat("v", 70)} {
		add("labelSelector=" + escape("crowd,"+selector))
		add("labelSelector=" + escape("crowd,"+selector) + "&limit=1")
	}
	for _, selector := range []string{"metadata.name=crowd-1", "metadata.name!=crowd-1", "metadata.name==crowd-1", "metadata.name=crowd-1,metadata.name=crowd-2", "metadata.namespace=" + ns, "metadata.namespace=other", "metadata.labels=x", "data.i=1", "metadata.name", "=", "metadata.name=a=b", `metadata.name=a\,b`, `metadata.name=a\x`, "metadata.name in (a)"} {
		add("labelSelector=crowd&fieldSelector=" + escape(selector))
	}
	for _, other := range []string{"pretty=1", "timeoutSeconds=5", "timeoutSeconds=x", "timeoutSeconds=-1", "timeout=5s", "timeout=x", "timeout=0s", "unknown=1", "allowWatchBookmarks=true", "sendInitialEvents=true", "sendInitialEvents=x", "watch=x&timeoutSeconds=1", "watch=false", "limit=1&limit=2", "labelSelector=a&labelSelector=b", "%zz", "limit=%31"} {
		add("labelSelector=crowd&" + other)
	}
	return out
}

// pages are lists that go on: what a server gave out is followed there.
func pages(ns string) (out []exchange) {
	path := core(ns) + crowd
	of := path + "?labelSelector=crowd&limit=2"
	for _, query := range []string{"limit=2", "limit=3", "limit=100", "", "limit=2&resourceVersion=0", "limit=2&resourceVersion=5", "limit=2&resourceVersionMatch=Exact", "limit=2&labelSelector=odd", "fieldSelector=metadata.name%21%3Dcrowd-3"} {
		for _, accept := range []string{"Accept: application/json", asTable, partials} {
			out = append(out, exchange{group: "list options", name: "go on with " + query + " " + accept, method: "GET", path: path + "?labelSelector=crowd&continue=$CONTINUE&" + query, of: of, headers: []string{accept}})
		}
	}
	return out
}

// selections are lists by the fields of single kinds.
func selections(ns string) (out []exchange) {
	pods := core(ns) + "pods"
	for _, selector := range []string{"spec.nodeName=a", "spec.nodeName!=a", "spec.nodeName=", "status.phase=Pending", "status.phase!=Pending", "status.phase=pending", "spec.restartPolicy=Never", "spec.schedulerName=nobody", "spec.serviceAccountName=default", "spec.hostNetwork=false", "status.podIP=", "status.podIPs=x", "status.nominatedNodeName=", "spec.priority=0", "status.phase=Pending,spec.nodeName=b"} {
		out = append(out, exchange{group: "list options", name: "pods by " + selector, method: "GET", path: pods + "?labelSelector=crowd&fieldSelector=" + escape(selector)})
	}
	for what, selectors := range map[string][]string{
		"secrets": {"type=Opaque", "type!=Opaque", "data=x"}, "events": {"involvedObject.kind=Pod", "reason=Started", "type=Normal", "source=kubelet", "reportingComponent=x", "involvedObject.fieldPath=", "message=x"},
		"replicationcontrollers": {"status.replicas=0", "spec.replicas=2"}, "services": {"spec.type=NodePort", "spec.clusterIP=None", "spec.ports=x"}, "resourcequotas": {"spec.hard=x"}, "persistentvolumeclaims": {"status.phase=x", "spec.volumeName=some"},
	} {
		for _, selector := range selectors {
			out = append(out, exchange{group: "list options", name: what + " by " + selector, method: "GET", path: core(ns) + what + "?labelSelector=app%3Dweb&fieldSelector=" + escape(selector)})
		}
	}
	for path, selectors := range map[string][]string{
		"/apis/batch/v1/namespaces/" + ns + "/jobs": {"status.successful=0", "spec.suspend=true"}, "/apis/apps/v1/namespaces/" + ns + "/replicasets": {"status.replicas=0"}, "/api/v1/namespaces": {"status.phase=Active", "name=x"}, "/api/v1/nodes": {"spec.unschedulable=true", "spec.podCIDR=x"},
		"/apis/certificates.k8s.io/v1/certificatesigningrequests": {"spec.signerName=kubernetes.io/kube-apiserver-client", "status=x"}, "/apis/events.k8s.io/v1/namespaces/" + ns + "/events": {"regarding.kind=Pod", "reason=Done", "reportingController=example.com/c", "note=x"}, "/apis/networking.k8s.io/v1/ipaddresses": {"spec.parentRef.name=s"},
	} {
		for _, selector := range selectors {
			out = append(out, exchange{group: "list options", name: path + " by " + selector, method: "GET", path: path + "?labelSelector=app%3Dweb&fieldSelector=" + escape(selector)})
		}
	}
	return out
}

// watches are opened, and things happen before they end.
func watches(ns string) (out []exchange) {
	path := core(ns) + crowd
	meanwhile := func(i int) []exchange {
		name := fmt.Sprintf("w%d", i)
		return []exchange{
			{method: "POST", path: path, body: fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q,"labels":{"crowd":"yes","w":"1"}}}`, name)},
			{method: "PATCH", path: path + "/" + name, body: `{"data":{"a":"b"}}`, headers: []string{merge}},
			{method: "PATCH", path: path + "/" + name, body: `{"metadata":{"labels":{"w":"2"}}}`, headers: []string{merge}},
			{method: "PATCH", path: path + "/" + name, body: `{"metadata":{"labels":{"w":"1"}}}`, headers: []string{merge}},
			{method: "DELETE", path: path + "/" + name},
		}
	}
	queries := []string{
		"", "resourceVersion=0", "resourceVersion=$VERSION", "resourceVersion=1", "resourceVersion=999999999999999", "resourceVersion=x", "resourceVersion=$VERSION&labelSelector=w%3D1", "resourceVersion=$VERSION&labelSelector=w%3D2",
		"resourceVersion=$VERSION&fieldSelector=metadata.name%3Dnothing", "resourceVersion=$VERSION&allowWatchBookmarks=true", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
		"sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=$VERSION", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=0",
		"sendInitialEvents=true&resourceVersionMatch=NotOlderThan", "sendInitialEvents=true", "sendInitialEvents=false", "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=$VERSION",
		"sendInitialEvents=true&resourceVersionMatch=Exact", "resourceVersionMatch=NotOlderThan", "limit=1", "continue=x", "labelSelector=%3D%3D", "fieldSelector=data%3Dx", "timeoutSeconds=x",
	}
	for i, query := range queries {
		for j, accept := range []string{"Accept: application/json", protobuf, asTable, partials, "Accept: application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", asCBOR, "Accept: application/yaml", "Accept: application/json;stream=watch"} {
			if j > 0 && i%3 != 0 && j != 2 {
				continue
			}
			timeout := "&timeoutSeconds=1"
			if strings.Contains(query, "timeoutSeconds") {
				timeout = ""
			}
			selector := "&labelSelector=crowd"
			if strings.Contains(query, "labelSelector") {
				selector = ""
			}
			out = append(out, exchange{group: "watch", name: query + " " + accept, method: "GET", path: path + "?watch=true" + selector + timeout + "&" + query, headers: []string{accept}, of: path, meanwhile: meanwhile(i*10 + j), once: true})
		}
	}
	return out
}

func escape(s string) string {
	return strings.NewReplacer(" ", "%20", "=", "%3D", ",", "%2C", "!", "%21", "(", "%28", ")", "%29", "<", "%3C", ">", "%3E", `\`, "%5C").Replace(s)
}
