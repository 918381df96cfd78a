package customresources

import (
	"net/http"
	"slices"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	upstream "k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
)

// Where groups of custom resources stand among others, and their versions among each other; upstream's numbers.
const (
	groupPriority   = 1000
	versionPriority = 100
)

// discovery announces what is established. It listens to the definitions and writes the documents of a group anew when one of the
// group's definitions has changed.
type discovery struct {
	c           *Config
	definitions *followed
	together    aggregated.ResourceManager

	mu       sync.RWMutex
	groups   map[string]http.Handler
	versions map[schema.GroupVersion]http.Handler
}

func newDiscovery(c *Config, d *followed) *discovery {
	return &discovery{
		c: c, definitions: d, together: c.Discovery.WithSource(aggregated.CRDSource),
		groups: map[string]http.Handler{}, versions: map[schema.GroupVersion]http.Handler{},
	}
}

func (d *discovery) OnAdd(o any, _ bool) { d.change(o) }
func (d *discovery) OnUpdate(_, o any)   { d.change(o) }
func (d *discovery) OnDelete(o any)      { d.change(o) }

// change writes the group of a definition anew; its name is "<plural>.<group>".
func (d *discovery) change(o any) {
	_, group, _ := strings.Cut(o.(*apiextensionsv1.CustomResourceDefinition).Name, ".")
	if !d.c.BuiltIn(group) {
		d.announce(group)
	}
}

// announce writes the documents of a group.
func (d *discovery) announce(group string) {
	served := d.definitions.served(func(g string) bool { return g == group })
	d.mu.Lock()
	defer d.mu.Unlock()
	for gv := range d.versions {
		if _, still := served[gv]; gv.Group == group && !still {
			delete(d.versions, gv)
			d.together.RemoveGroupVersion(metav1.GroupVersion(gv))
		}
	}
	if len(served) == 0 {
		delete(d.groups, group)
		d.c.Groups.RemoveGroup(group)
		return
	}
	all := metav1.APIGroup{Name: group}
	for _, gv := range sorted(group, served) {
		all.Versions = append(all.Versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version})
		resources := listed(served[gv], gv)
		d.versions[gv] = upstream.NewAPIVersionHandler(apiserver.Codecs, gv, upstream.APIResourceListerFunc(func() []metav1.APIResource { return resources }))
		d.together.AddGroupVersion(group, together(served[gv], gv))
		d.together.SetGroupVersionPriority(metav1.GroupVersion(gv), groupPriority, versionPriority)
	}
	all.PreferredVersion = all.Versions[0]
	d.groups[group] = upstream.NewAPIGroupHandler(apiserver.Codecs, all)
	d.c.Groups.AddGroup(all)
}

// sorted gives the versions of a group, the preferred one first: v2, v1, v1beta1.
func sorted[V any](group string, versions map[schema.GroupVersion]V) []schema.GroupVersion {
	var names []string
	for gv := range versions {
		names = append(names, gv.Version)
	}
	slices.SortFunc(names, func(a, b string) int { return version.CompareKubeAwareVersionStrings(b, a) })
	out := make([]schema.GroupVersion, len(names))
	for i, name := range names {
		out[i] = schema.GroupVersion{Group: group, Version: name}
	}
	return out
}

// handler gives the document of a group, or of a group and a version; nil when there is none.
func (d *discovery) handler(path []string) http.Handler {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if len(path) == 1 {
		return d.groups[path[0]]
	}
	return d.versions[schema.GroupVersion{Group: path[0], Version: path[1]}]
}

// withdraw takes everything back.
func (d *discovery) withdraw() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for g := range d.groups {
		d.c.Groups.RemoveGroup(g)
		d.together.RemoveGroup(g)
	}
	clear(d.groups)
	clear(d.versions)
}
