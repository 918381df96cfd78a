package garbage

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// ignored resources are not watched: Events have no owners and come in masses,
// and what the group extensions serves is another group's.
func ignored(gr schema.GroupResource) bool {
	return gr.Resource == "events" || gr.Group == "extensions"
}

type target struct {
	resource   schema.GroupResource
	namespaced bool
	far        bool // another server has it
}

// kinds knows what is served: the resource of a kind that an owner reference names, and the version to ask for one in.
type kinds struct {
	mu       sync.Mutex
	byKind   map[schema.GroupVersionKind]target
	versions map[schema.GroupResource]string
	far      map[schema.GroupResource]bool
}

// offered is what is served at a time.
type offered struct {
	followed map[schema.GroupResource]source
	silent   map[schema.GroupVersion]bool // announced, but their server does not say what it has of them
}

// source says how a resource is read.
type source struct {
	version schema.GroupVersion
	far     bool // from another server
}

// discover reads which resources are served, and returns those to follow. A resource is one, whatever versions it has and
// in whatever order discovery names them.
func (k *kinds) discover(client discovery.DiscoveryInterface, elsewhere map[schema.GroupVersion]bool) (offered, error) {
	groups, lists, err := client.ServerGroupsAndResources()
	if len(lists) == 0 && err != nil {
		return offered{}, err
	}
	now := offered{followed: map[schema.GroupResource]source{}, silent: map[schema.GroupVersion]bool{}}
	failed, _ := discovery.GroupDiscoveryFailedErrorGroups(err)
	for gv := range failed {
		now.silent[gv] = true
	}
	rank := map[string]int{} // of a group's version: the preferred one is 0
	for _, g := range groups {
		for i, v := range g.Versions {
			rank[v.GroupVersion] = i
		}
	}
	slices.SortStableFunc(lists, func(a, b *metav1.APIResourceList) int { return rank[a.GroupVersion] - rank[b.GroupVersion] })
	known := kinds{byKind: map[schema.GroupVersionKind]target{}, versions: map[schema.GroupResource]string{}, far: map[schema.GroupResource]bool{}}
	for _, list := range lists {
		if gv, err := schema.ParseGroupVersion(list.GroupVersion); err == nil {
			known.take(gv, list.APIResources, elsewhere[gv], now.followed)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.byKind, k.versions, k.far = known.byKind, known.versions, known.far
	return now, nil
}

// take takes in what is served in one version, and adds what is to be followed.
func (k *kinds) take(gv schema.GroupVersion, resources []metav1.APIResource, far bool, followed map[schema.GroupResource]source) {
	for _, r := range resources {
		// A subresource ("replicasets/status") has the kind of its object, but no objects of its own.
		if !slices.Contains(r.Verbs, "get") || strings.Contains(r.Name, "/") {
			continue
		}
		gr := schema.GroupResource{Group: gv.Group, Resource: r.Name}
		k.byKind[gv.WithKind(r.Kind)] = target{resource: gr, namespaced: r.Namespaced, far: far}
		if _, seen := k.versions[gr]; seen {
			continue
		}
		k.versions[gr], k.far[gr] = gv.Version, far
		if !ignored(gr) && slices.Contains(r.Verbs, "delete") && slices.Contains(r.Verbs, "list") && slices.Contains(r.Verbs, "watch") {
			followed[gr] = source{version: gv, far: far}
		}
	}
}

// isFar says whether another server has a resource.
func (k *kinds) isFar(gr schema.GroupResource) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.far[gr]
}

// version is the one to ask for a resource in.
func (k *kinds) version(gr schema.GroupResource) (schema.GroupVersionResource, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	v, ok := k.versions[gr]
	if !ok {
		return schema.GroupVersionResource{}, fmt.Errorf("%s is not served now", gr)
	}
	return gr.WithVersion(v), nil
}

// find maps a kind; a version that is not served any more counts as another of
// the same group.
func (k *kinds) find(apiVersion, kind string) (target, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	gvk := schema.FromAPIVersionAndKind(apiVersion, kind)
	if t, ok := k.byKind[gvk]; ok {
		return t, nil
	}
	for other, t := range k.byKind {
		if other.Group == gvk.Group && other.Kind == gvk.Kind {
			return t, nil
		}
	}
	return target{}, fmt.Errorf("unable to get REST mapping for %s/%s: %w", apiVersion, kind, &meta.NoKindMatchError{GroupKind: gvk.GroupKind(), SearchedVersions: []string{gvk.Version}})
}
