package api

import (
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	admissionregistrationrest "k8s.io/kubernetes/pkg/registry/admissionregistration/rest"
	appsrest "k8s.io/kubernetes/pkg/registry/apps/rest"
	authenticationrest "k8s.io/kubernetes/pkg/registry/authentication/rest"
	authorizationrest "k8s.io/kubernetes/pkg/registry/authorization/rest"
	autoscalingrest "k8s.io/kubernetes/pkg/registry/autoscaling/rest"
	batchrest "k8s.io/kubernetes/pkg/registry/batch/rest"
	certificatesrest "k8s.io/kubernetes/pkg/registry/certificates/rest"
	coordinationrest "k8s.io/kubernetes/pkg/registry/coordination/rest"
	discoveryrest "k8s.io/kubernetes/pkg/registry/discovery/rest"
	eventsrest "k8s.io/kubernetes/pkg/registry/events/rest"
	flowcontrolrest "k8s.io/kubernetes/pkg/registry/flowcontrol/rest"
	networkingrest "k8s.io/kubernetes/pkg/registry/networking/rest"
	noderest "k8s.io/kubernetes/pkg/registry/node/rest"
	policyrest "k8s.io/kubernetes/pkg/registry/policy/rest"
	rbacrest "k8s.io/kubernetes/pkg/registry/rbac/rest"
	resourcerest "k8s.io/kubernetes/pkg/registry/resource/rest"
	schedulingrest "k8s.io/kubernetes/pkg/registry/scheduling/rest"
	storagerest "k8s.io/kubernetes/pkg/registry/storage/rest"
	svmrest "k8s.io/kubernetes/pkg/registry/storagemigration/rest"

	"bramble.dev/server/api/aggregator"
	"bramble.dev/server/api/customresources"
	"bramble.dev/server/api/resourcemetrics"
	"bramble.dev/server/store"
)

// eventLife is how long an Event stays, as upstream has it.
const eventLife = time.Hour

// provider makes the storages of a group; upstream has one a group.
type provider interface {
	NewRESTStorage(serverstorage.APIResourceConfigSource, generic.RESTOptionsGetter) (genericapiserver.APIGroupInfo, error)
}

// group is one API group that is served. Its stable versions are those that upstream enables by default.
type group struct {
	name     string
	priority int            // in discovery; upstream's number
	versions map[string]int // their priority in it where it is not 15, or 9 of one that is not stable; upstream's numbers
	storages func(*wiring) provider
	old      []oldVersion
	volatile map[string]store.VolatileFunc // by resource
}

// table is what the API serves, in the order of discovery. Where a kind lives in two groups, clients that name no group get
// the first. Groups of custom resources come and go with their definitions (package customresources).
var table = []group{
	{name: aggregator.GroupName, priority: 20001, storages: func(*wiring) provider { return aggregator.Storages{} }},
	{name: "", priority: 18000, versions: map[string]int{"v1": 1}, storages: func(w *wiring) provider { return core{w} },
		volatile: map[string]store.VolatileFunc{"events": always, "nodes": heartbeat}},
	{name: "apps", priority: 17800, storages: func(*wiring) provider { return appsrest.StorageProvider{} }, old: []oldVersion{
		{version: "v1beta2", from: from("apps/v1", "deployments", "statefulsets", "daemonsets", "replicasets", "controllerrevisions")},
		{version: "v1beta1", from: from("apps/v1", "deployments", "statefulsets", "controllerrevisions")},
	}},
	{name: "events.k8s.io", priority: 17750, storages: func(*wiring) provider { return eventsrest.RESTStorageProvider{TTL: eventLife} },
		volatile: map[string]store.VolatileFunc{"events": always}},
	{name: "authentication.k8s.io", priority: 17700, storages: func(w *wiring) provider {
		return authenticationrest.RESTStorageProvider{Authenticator: w.authenticator, APIAudiences: audiences}
	}},
	{name: "authorization.k8s.io", priority: 17600, storages: func(w *wiring) provider {
		return authorizationrest.RESTStorageProvider{Authorizer: w.authorizer, RuleResolver: w.rules}
	}},
	{name: "autoscaling", priority: 17500, versions: map[string]int{"v2": 30}, storages: func(*wiring) provider { return autoscalingrest.RESTStorageProvider{} },
		volatile: map[string]store.VolatileFunc{"horizontalpodautoscalers": autoscalerStatus}, old: []oldVersion{
			{version: "v2beta2", from: from("autoscaling/v2", "horizontalpodautoscalers")},
		}},
	{name: "batch", priority: 17400, storages: func(*wiring) provider { return batchrest.RESTStorageProvider{} }, old: []oldVersion{
		{version: "v1beta1", from: from("batch/v1", "cronjobs")},
		{version: "v2alpha1", from: from("batch/v1", "cronjobs")},
	}},
	{name: "certificates.k8s.io", priority: 17300, storages: func(w *wiring) provider {
		return certificatesrest.RESTStorageProvider{Authorizer: w.authorizer}
	}},
	{name: "networking.k8s.io", priority: 17200, storages: func(*wiring) provider { return networkingrest.RESTStorageProvider{} }, old: []oldVersion{
		{version: "v1beta1", from: from("networking.k8s.io/v1", "ingresses", "ingressclasses")},
	}},
	{name: "policy", priority: 17100, storages: func(*wiring) provider { return policyrest.RESTStorageProvider{} }, old: []oldVersion{
		{version: "v1beta1", from: from("policy/v1", "poddisruptionbudgets")},
	}},
	{name: "rbac.authorization.k8s.io", priority: 17000, storages: func(w *wiring) provider {
		return rbacrest.RESTStorageProvider{Authorizer: w.authorizer}
	}, old: []oldVersion{
		{version: "v1beta1", from: from("rbac.authorization.k8s.io/v1", "roles", "rolebindings", "clusterroles", "clusterrolebindings")},
	}},
	{name: "storage.k8s.io", priority: 16800, storages: func(*wiring) provider { return storagerest.RESTStorageProvider{} }, old: []oldVersion{
		{version: "v1beta1", from: from("storage.k8s.io/v1", "storageclasses", "csidrivers")},
	}},
	{name: "admissionregistration.k8s.io", priority: 16700, storages: func(w *wiring) provider {
		return admissionregistrationrest.RESTStorageProvider{Authorizer: w.authorizer, DiscoveryClient: w.client.Discovery()}
	}},
	{name: "apiextensions.k8s.io", priority: 16700, storages: func(*wiring) provider { return customresources.Definitions{} }},
	{name: "scheduling.k8s.io", priority: 16600, storages: func(*wiring) provider { return schedulingrest.RESTStorageProvider{} }, old: []oldVersion{
		{version: "v1beta1", from: from("scheduling.k8s.io/v1", "priorityclasses")},
	}},
	{name: "coordination.k8s.io", priority: 16500, storages: func(*wiring) provider { return coordinationrest.RESTStorageProvider{} },
		volatile: map[string]store.VolatileFunc{"leases": renewal}},
	{name: "node.k8s.io", priority: 16300, storages: func(*wiring) provider { return noderest.RESTStorageProvider{} }, old: []oldVersion{
		{version: "v1beta1", from: from("node.k8s.io/v1", "runtimeclasses")},
	}},
	{name: "discovery.k8s.io", priority: 16200, storages: func(*wiring) provider { return discoveryrest.StorageProvider{} }, old: []oldVersion{
		{version: "v1beta1", from: from("discovery.k8s.io/v1", "endpointslices")},
	}},
	{name: "resource.k8s.io", priority: 16200, versions: map[string]int{"v1": 21}, storages: func(w *wiring) provider {
		return resourcerest.RESTStorageProvider{NamespaceClient: w.client.CoreV1().Namespaces(), Authorizer: w.authorizer}
	}},
	{name: "flowcontrol.apiserver.k8s.io", priority: 16100, versions: map[string]int{"v1": 21}, storages: func(w *wiring) provider {
		return flowcontrolrest.RESTStorageProvider{InformerFactory: w.informers}
	}},
	{name: "storagemigration.k8s.io", priority: 15800, storages: func(*wiring) provider { return svmrest.RESTStorageProvider{} }},
	// After apps and networking.k8s.io, so that "deployments" and "ingresses" mean theirs.
	{name: "extensions", priority: 1000, old: []oldVersion{
		{version: "v1beta1", from: from("apps/v1", "deployments", "daemonsets", "replicasets").and("networking.k8s.io/v1", "ingresses", "networkpolicies")},
	}},
	// The last, so that "pods" and "nodes" mean the core's.
	{name: resourcemetrics.GroupName, priority: 100, storages: func(w *wiring) provider { return resourcemetrics.Group{Config: w.usage()} }},
}

// local is how a version stands in discovery.
func (g *group) local(version string) aggregator.Local {
	rank, known := g.versions[version]
	switch {
	case known:
	case strings.Contains(version, "beta") || strings.Contains(version, "alpha"):
		rank = 9
	default:
		rank = 15
	}
	return aggregator.Local{GroupVersion: schema.GroupVersion{Group: g.name, Version: version}, GroupPriority: int32(g.priority), VersionPriority: int32(rank)}
}

// builtIn tells whether a group is the API's own.
func builtIn(name string) bool {
	return slices.ContainsFunc(table, func(g group) bool { return g.name == name })
}

// presentGroups are the groups whose storages serve the resources of a group that repeats others'.
func presentGroups() map[schema.GroupResource]string {
	out := map[schema.GroupResource]string{}
	for _, g := range table {
		for _, old := range g.old {
			for resource, gv := range old.from {
				if gv.Group != g.name {
					out[schema.GroupResource{Group: g.name, Resource: resource}] = gv.Group
				}
			}
		}
	}
	return out
}

// volatileOf finds the volatile class of a resource.
func volatileOf(gr schema.GroupResource) store.VolatileFunc {
	for _, g := range table {
		if g.name == gr.Group {
			return g.volatile[gr.Resource]
		}
	}
	return nil
}
