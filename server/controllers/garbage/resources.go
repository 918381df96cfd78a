package garbage

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// ignored resources are not watched: Events have no owners and come in masses,
// and what the group extensions serves is another group's.
func ignored(gr schema.GroupResource) bool {
	return gr.Resource == "events" || gr.Group == "extensions"
}

type target struct {
	resource   schema.GroupVersionResource
	namespaced bool
}

// kinds finds the resource of a kind that an owner reference names.
type kinds struct {
	mu     sync.Mutex
	byKind map[schema.GroupVersionKind]target
}

// discover reads which resources are served. It returns those to watch, each
// group's in one version.
func (k *kinds) discover(client discovery.DiscoveryInterface) ([]schema.GroupVersionResource, error) {
	_, lists, err := client.ServerGroupsAndResources()
	if len(lists) == 0 && err != nil {
		return nil, err
	}
	byKind := map[schema.GroupVersionKind]target{}
	watched := map[schema.GroupResource]schema.GroupVersionResource{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range list.APIResources {
			// A subresource ("replicasets/status") has the kind of its object, but no objects of its own.
			if !slices.Contains(r.Verbs, "get") || strings.Contains(r.Name, "/") {
				continue
			}
			byKind[gv.WithKind(r.Kind)] = target{resource: gv.WithResource(r.Name), namespaced: r.Namespaced}
			gr := schema.GroupResource{Group: gv.Group, Resource: r.Name}
			if _, seen := watched[gr]; seen || ignored(gr) {
				continue
			}
			if slices.Contains(r.Verbs, "delete") && slices.Contains(r.Verbs, "list") && slices.Contains(r.Verbs, "watch") {
				watched[gr] = gv.WithResource(r.Name)
			}
		}
	}
	k.mu.Lock()
	k.byKind = byKind
	k.mu.Unlock()
	out := make([]schema.GroupVersionResource, 0, len(watched))
	for _, gvr := range watched {
		out = append(out, gvr)
	}
	return out, nil
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
	return target{}, fmt.Errorf("unable to get REST mapping for %s/%s", apiVersion, kind)
}
