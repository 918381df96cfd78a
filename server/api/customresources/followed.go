package customresources

import (
	"cmp"
	"context"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver"
	listers "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"bramble.dev/server/api/informer"
)

// followed is upstream's informer of the definitions, fed by the store.
type followed struct {
	factory *informer.Factory
	kept    cache.SharedIndexInformer
}

func (c *Config) follow(ctx context.Context) *followed {
	kind := &apiextensionsv1.CustomResourceDefinition{}
	f := informer.NewFactory(ctx, c.Store, apiserver.Scheme, func(schema.GroupResource) string { return c.Prefix }, c.Logger, informer.Keep(kind), informer.Hold())
	return &followed{factory: f, kept: f.InformerFor(kind, nil)}
}

func (d *followed) Informer() cache.SharedIndexInformer { return d.kept }

func (d *followed) Lister() listers.CustomResourceDefinitionLister {
	return listers.NewCustomResourceDefinitionLister(d.kept.GetIndexer())
}

// current waits until everybody who listens has been told what the store holds now.
func (d *followed) current(ctx context.Context) error {
	return d.factory.Current(ctx, &apiextensionsv1.CustomResourceDefinition{})
}

// all gives the definitions by name.
func (d *followed) all() []*apiextensionsv1.CustomResourceDefinition {
	list, err := d.Lister().List(labels.Everything())
	if err != nil {
		return nil // a list of what lies in memory has no error
	}
	slices.SortFunc(list, func(a, b *apiextensionsv1.CustomResourceDefinition) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// served gives the established definitions of groups by version, those of a version by name.
func (d *followed) served(of func(group string) bool) map[schema.GroupVersion][]*apiextensionsv1.CustomResourceDefinition {
	out := map[schema.GroupVersion][]*apiextensionsv1.CustomResourceDefinition{}
	for _, crd := range d.all() {
		if !of(crd.Spec.Group) || !apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) {
			continue
		}
		for _, v := range crd.Spec.Versions {
			if v.Served {
				gv := schema.GroupVersion{Group: crd.Spec.Group, Version: v.Name}
				out[gv] = append(out[gv], crd)
			}
		}
	}
	return out
}

// webhook tells whether one converts between the versions of a resource.
func (d *followed) webhook(gr schema.GroupResource) bool {
	crd, err := d.Lister().Get(gr.String())
	return err == nil && crd.Spec.Conversion != nil && crd.Spec.Conversion.Strategy == apiextensionsv1.WebhookConverter
}
