package api

import (
	"net/http"
	"sync"

	restful "github.com/emicklei/go-restful/v3"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	upstream "k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
)

// discovery tells clients what is served, in the form of before 1.26 (a document a group version) and in one document.
type discovery struct {
	addresses upstream.Addresses
	groups    *groups
	apis      aggregated.ResourceManager // below /apis
	legacy    aggregated.ResourceManager // below /api
	routes    *router
}

// groupLister is upstream's handler of the list of groups.
type groupLister interface {
	upstream.GroupLister
	AddGroup(metav1.APIGroup)
	RemoveGroup(name string)
}

// groups is the list of groups. Of a group that both another server and definitions of custom resources have versions of, it shows what
// APIServices say, which is both.
type groups struct {
	groupLister

	mu    sync.Mutex
	known [2]map[string]metav1.APIGroup // by source
}

// source is the list as one sees it who adds to it.
type source struct {
	*groups
	n int
}

const (
	fromAPIServices = iota
	fromDefinitions
)

func (g *groups) of(n int) source { return source{g, n} }

func (s source) AddGroup(g metav1.APIGroup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[s.n][g.Name] = g
	s.show(g.Name)
}

func (s source) RemoveGroup(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known[s.n], name)
	s.show(name)
}

// ServeHTTP answers as upstream's aggregator does, which knows nothing of the addresses by which clients might reach a group.
func (g *groups) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	list := &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	all, err := g.Groups(r.Context(), r)
	if err != nil {
		responsewriters.ErrorNegotiated(err, legacyscheme.Codecs, schema.GroupVersion{}, w, r)
		return
	}
	for _, group := range all {
		group.ServerAddressByClientCIDRs = nil
		list.Groups = append(list.Groups, group)
	}
	responsewriters.WriteObjectNegotiated(legacyscheme.Codecs, negotiation.DefaultEndpointRestrictions, schema.GroupVersion{}, w, r, http.StatusOK, list, false)
}

func (g *groups) show(name string) {
	for _, known := range g.known {
		if group, ok := known[name]; ok {
			g.groupLister.AddGroup(group)
			return
		}
	}
	g.groupLister.RemoveGroup(name)
}

func newDiscovery(address string, routes *router) *discovery {
	a := upstream.DefaultAddresses{DefaultAddress: address}
	return &discovery{addresses: a, groups: &groups{groupLister: upstream.NewRootAPIsHandler(a, legacyscheme.Codecs), known: [2]map[string]metav1.APIGroup{{}, {}}}, apis: aggregated.NewResourceManager("apis"), legacy: aggregated.NewResourceManager("api"), routes: routes}
}

// add announces a version; within its group, the one with the highest rank is preferred.
func (d *discovery) add(g *group, version string, rank int, resources []apidiscoveryv2.APIResourceDiscovery) {
	m := d.apis
	if g.name == "" {
		m = d.legacy
	}
	m.AddGroupVersion(g.name, apidiscoveryv2.APIVersionDiscovery{Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Version: version, Resources: resources})
	m.SetGroupVersionPriority(metav1.GroupVersion{Group: g.name, Version: version}, g.priority, rank)
}

func (d *discovery) addGroup(name string, versions []string) {
	if name == "" {
		return
	}
	g := metav1.APIGroup{Name: name}
	for _, v := range versions {
		g.Versions = append(g.Versions, metav1.GroupVersionForDiscovery{GroupVersion: name + "/" + v, Version: v})
	}
	g.PreferredVersion = g.Versions[0]
	d.groups.AddGroup(g)
	d.route(upstream.NewAPIGroupHandler(legacyscheme.Codecs, g).WebService())
}

// replaceLegacy serves these resources as a version's own document, in place of the one that upstream's installer has made.
func (d *discovery) replaceLegacy(gv schema.GroupVersion, resources []apidiscoveryv2.APIResourceDiscovery) {
	var list []metav1.APIResource
	for _, r := range resources {
		namespaced := r.Scope == apidiscoveryv2.ScopeNamespace
		one := metav1.APIResource{Name: r.Resource, SingularName: r.SingularResource, Namespaced: namespaced, Kind: r.ResponseKind.Kind, Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories}
		list = append(list, one)
		for _, sub := range r.Subresources {
			list = append(list, metav1.APIResource{Name: r.Resource + "/" + sub.Subresource, Namespaced: namespaced, Kind: sub.ResponseKind.Kind, Group: sub.ResponseKind.Group, Version: sub.ResponseKind.Version, Verbs: sub.Verbs})
		}
	}
	lister := upstream.APIResourceListerFunc(func() []metav1.APIResource { return list })
	d.routes.add("GET", "/apis/"+gv.String(), route{handle: upstream.NewAPIVersionHandler(legacyscheme.Codecs, gv, lister).ServeHTTP})
}

// serve adds the two roots.
func (d *discovery) serve() {
	legacy := upstream.NewLegacyRootAPIHandler(d.addresses, legacyscheme.Codecs, "/api")
	d.route(aggregated.WrapAggregatedDiscoveryToHandler(legacy, d.legacy, nil).GenerateWebService("/api", metav1.APIVersions{}))
	d.route(aggregated.WrapAggregatedDiscoveryToHandler(d.groups, d.apis, nil).GenerateWebService("/apis", metav1.APIGroupList{}))
}

func (d *discovery) route(ws *restful.WebService) {
	c := restful.NewContainer()
	c.Add(ws)
	d.routes.take(c, nil)
}
