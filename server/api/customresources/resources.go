package customresources

import (
	"cmp"
	"slices"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	upstream "k8s.io/apiserver/pkg/endpoints/discovery"
)

// verbs are what may be asked of a custom resource; of one that is being taken away, no more than to read and delete.
func verbs(crd *apiextensionsv1.CustomResourceDefinition) metav1.Verbs {
	if apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Terminating) {
		return metav1.Verbs{"delete", "deletecollection", "get", "list", "watch"}
	}
	return metav1.Verbs{"delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"}
}

// part is a subresource of a version and the kind that it speaks.
type part struct {
	name string
	kind schema.GroupVersionKind
}

func parts(crd *apiextensionsv1.CustomResourceDefinition, gv schema.GroupVersion) []part {
	s, err := apihelpers.GetSubresourcesForVersion(crd, gv.Version)
	if err != nil || s == nil {
		return nil
	}
	var out []part
	if s.Status != nil {
		out = append(out, part{"status", gv.WithKind(crd.Status.AcceptedNames.Kind)})
	}
	if s.Scale != nil {
		out = append(out, part{"scale", autoscalingv1.SchemeGroupVersion.WithKind("Scale")})
	}
	return out
}

// subverbs are what may be asked of a subresource.
var subverbs = metav1.Verbs{"get", "patch", "update"}

// storageHash tells clients in which version and kind the objects are written.
func storageHash(crd *apiextensionsv1.CustomResourceDefinition) string {
	v, err := apihelpers.GetCRDStorageVersion(crd)
	if err != nil {
		return ""
	}
	return upstream.StorageVersionHash(crd.Spec.Group, v, crd.Spec.Names.Kind)
}

// listed is a version's document of before 1.26.
func listed(crds []*apiextensionsv1.CustomResourceDefinition, gv schema.GroupVersion) []metav1.APIResource {
	out := []metav1.APIResource{}
	for _, crd := range crds {
		names, namespaced := crd.Status.AcceptedNames, crd.Spec.Scope == apiextensionsv1.NamespaceScoped
		out = append(out, metav1.APIResource{
			Name: names.Plural, SingularName: names.Singular, Kind: names.Kind, Namespaced: namespaced, Verbs: verbs(crd),
			ShortNames: names.ShortNames, Categories: names.Categories, StorageVersionHash: storageHash(crd),
		})
		for _, p := range parts(crd, gv) {
			r := metav1.APIResource{Name: names.Plural + "/" + p.name, Kind: p.kind.Kind, Namespaced: namespaced, Verbs: subverbs}
			if p.kind.Group != gv.Group {
				r.Group, r.Version = p.kind.Group, p.kind.Version
			}
			out = append(out, r)
		}
	}
	return out
}

// together is a version in the document of everything.
func together(crds []*apiextensionsv1.CustomResourceDefinition, gv schema.GroupVersion) apidiscoveryv2.APIVersionDiscovery {
	out := apidiscoveryv2.APIVersionDiscovery{Version: gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
	for _, crd := range crds {
		names, scope := crd.Status.AcceptedNames, apidiscoveryv2.ScopeCluster
		if crd.Spec.Scope == apiextensionsv1.NamespaceScoped {
			scope = apidiscoveryv2.ScopeNamespace
		}
		kind := metav1.GroupVersionKind(gv.WithKind(names.Kind))
		r := apidiscoveryv2.APIResourceDiscovery{
			Resource: names.Plural, SingularResource: names.Singular, Scope: scope, ResponseKind: &kind, Verbs: verbs(crd),
			ShortNames: names.ShortNames, Categories: names.Categories,
		}
		for _, p := range parts(crd, gv) {
			kind := metav1.GroupVersionKind(p.kind)
			r.Subresources = append(r.Subresources, apidiscoveryv2.APISubresourceDiscovery{Subresource: p.name, ResponseKind: &kind, Verbs: subverbs})
		}
		out.Resources = append(out.Resources, r)
	}
	slices.SortFunc(out.Resources, func(a, b apidiscoveryv2.APIResourceDiscovery) int { return cmp.Compare(a.Resource, b.Resource) })
	return out
}
