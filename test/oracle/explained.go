package main

import "regexp"

// reason says why some answers differ, and will.
type reason struct {
	request    string // of the request, "group: name"
	difference string // of each line that differs
	why        string
}

// reasons are looked through in order; docs/api-coverage.md lists those that were needed.
var reasons = []reason{
	{`^(services: s\d+ changed by {"clusterIP":"None"}|fields: jobs\.v1\.batch: spec\.completions missing$|fields: customresourcedefinitions\..*\.openAPIV3Schema\..*x-kubernetes-preserve-unknown-fields)`, `^no answer: <nil>; upstream: .*EOF$`, "Upstream's code panics (the same code here): its server closes the connection, and here the answer is a 500 that says so."},
	{`^from the start: .*/services/kubernetes$`, `targetPort`, "The API's own Service leads to the port on which the server listens, another one on each side."},
	{`: validatingadmissionpolicies\.`, `managedFields|observedGeneration|typeChecking`, "The types in a ValidatingAdmissionPolicy are checked by the server itself; upstream's controller manager does that, which doesn't run here."},
	{`^(list options|watch): .*resourceVersion=1( |&|$)`, `(?s)^code 410,|too old`, "The history that lists and watches go back to is bounded in memory: an old revision is gone (410) where upstream, freshly started, still has it in etcd."},
	{`^list options: .*(resourceVersion=0.*limit=|limit=.*resourceVersion=0)`, `^\.(items|rows|metadata\.(continue|remainingItemCount))`, "A list from revision 0 is given in pages where pages are asked for; upstream's watch cache gives all at once."},
	{`^watch: resourceVersion=9{9,}`, `504|Too large`, "A watch from a revision that has not been is refused at once; upstream holds it open in silence."},
	{`^get: (events|events\.v1\.events\.k8s\.io): \?resourceVersion=abc$`, `^code 500, upstream 400`, "A revision that is no number is a 500 for every kind, as upstream answers for those that it caches; its Events, which it doesn't cache, answer 400."},
	{`^(paths: GET|discovery:) /version`, `git(Commit|TreeState|Version)|goVersion|buildDate|platform`, "Its version says that it is Bramble."},
	{`^paths: (GET|POST|DELETE) /$`, `paths`, "The list of paths names what is served: Bramble's old versions, and not every health check of upstream's."},
	{`^(paths: GET|discovery:) /apis`, `^\.((groups\.[\w.]+\.)?versions: |groups\.(extensions|metrics\.k8s\.io) is not )`, "Old versions of some groups are served to the manifests and clients of their time, and `metrics.k8s.io` without a program beside."},
	{`^paths: (POST|DELETE) /apis`, `^code 405, upstream 200`, "Upstream's lists of groups answer any method as if it were GET."},
	{`^discovery: /openapi/v2`, `\.paths\./(logs|apis/[a-z0-9.]+/v\d(alpha|beta)\d/)|logpath`, "The document of version 2 names the old versions' patches, so that kubectl before 1.27 tries dry runs on them, and has no `/logs`: a node's logs are read by its proxy."},
	{`^limits: a claim of`, `storageClassName`, "The cluster begins with a StorageClass and an IngressClass that are the defaults."},
	{`^from the start: /api/v1/namespaces/kube-system$`, `annotations is not upstream's`, "The cluster begins with a StorageClass and an IngressClass that are the defaults."},
	{`^from the start: .*(clusterroles|clusterrolebindings)$`, `^\.items\.system:[\w:-]+ is not upstream's`, "Three roles more: what upstream's controller manager does under other names, and that of metrics.k8s.io, which is served here and not by a program beside."},
	{`^(patch|subresources): (apiservices|customresourcedefinitions)\..*: (merge|operations) `, `managedFields`, "What the server writes by itself is `bramble`'s in managedFields, and `kube-apiserver`'s upstream: another order, where an error quotes them."},
	{`^malformed: a field that is written in another case alone$`, `.`, "A field of a built-in kind whose name differs from the right one by case alone is taken for that one, with a warning, as servers of 2017 did; upstream refuses it, or drops it."},
	{`^malformed: apiservices\..*: another kind$`, `unknown conversion`, "An object of a quite other kind is refused in other words where an APIService is asked for."},
	{`^patch: events\.v1\.events\.k8s\.io: merge into what is not there$`, `^\.metadata\.managedFields is not upstream's`, "Who wrote which fields of an Event through one of its two groups stays known when it is written through the other; upstream's server has two schemas, of the core and of all other groups, and forgets what the one at hand doesn't know."},
}

// explain finds the reason that covers every line of a difference; empty: there is none.
func explain(e exchange, differ []string) string {
	for _, r := range reasons {
		if !regexp.MustCompile(r.request).MatchString(e.group + ": " + e.name) {
			continue
		}
		line := regexp.MustCompile(r.difference)
		covered := true
		for _, d := range differ {
			covered = covered && line.MatchString(d)
		}
		if covered {
			return r.why
		}
	}
	return ""
}
