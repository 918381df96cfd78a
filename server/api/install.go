package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	restful "github.com/emicklei/go-restful/v3"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/admission"
	genericapi "k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"bramble.dev/server/api/aggregator"
	"bramble.dev/server/api/fields"
)

// minWatch is how long a watch lasts at least, unless its client says otherwise; upstream's default.
const minWatch = 30 * time.Minute

// installer turns the table into routes and discovery.
type installer struct {
	*wiring
	admit      admission.Interface
	schemes    map[*runtime.Scheme]*encoding
	equivalent runtime.EquivalentResourceRegistry
	routes     *router
	discovery  *discovery
	made       map[schema.GroupVersion]map[string]rest.Storage
	local      []aggregator.Local // what was installed, but for the group of APIServices itself
}

// encoding is how the kinds of a scheme are written, and what their fields are.
type encoding struct {
	serializer runtime.NegotiatedSerializer
	fields     managedfields.TypeConverter
}

// encoding finds or makes that of a scheme: of the one that all built-in kinds share, or the one of the definitions of custom resources.
func (i *installer) encoding(s *runtime.Scheme) *encoding {
	e := i.schemes[s]
	if e == nil {
		e = &encoding{newSerializer(s), fields.NewTypeConverter(s)}
		i.schemes[s] = e
	}
	return e
}

// install makes the storages of every group and puts their handlers into the router.
func (i *installer) install() error {
	for n := range table {
		g := &table[n]
		info := genericapiserver.NewDefaultAPIGroupInfo(g.name, legacyscheme.Scheme, legacyscheme.ParameterCodec, legacyscheme.Codecs)
		if g.storages != nil {
			var err error
			if info, err = g.storages(i.wiring).NewRESTStorage(i.stores.served, i.stores); err != nil {
				return fmt.Errorf("api group %q: %w", g.name, err)
			}
		}
		if err := i.group(g, &info); err != nil {
			return fmt.Errorf("api group %q: %w", g.name, err)
		}
	}
	return nil
}

// servedVersion is one version of a group, ready to be installed.
type servedVersion struct {
	name     string
	storages map[string]rest.Storage
	old      bool
}

func (i *installer) group(g *group, info *genericapiserver.APIGroupInfo) error {
	var versions []servedVersion
	for _, gv := range info.PrioritizedVersions {
		storages := info.VersionedResourcesStorageMap[gv.Version]
		if len(storages) == 0 {
			continue
		}
		for _, s := range storages {
			shareTables(s)
		}
		i.made[schema.GroupVersion{Group: g.name, Version: gv.Version}] = storages
		versions = append(versions, servedVersion{name: gv.Version, storages: storages})
	}
	for _, o := range g.old {
		versions = append(versions, servedVersion{name: o.version, storages: o.from.storages(i.made), old: true})
	}
	if len(versions) == 0 {
		return nil // everything in it is alpha or beta, and off
	}
	var names []string
	for n, v := range versions {
		resources, err := i.version(g, info, v, versions)
		if err != nil {
			return fmt.Errorf("version %s: %w", v.name, err)
		}
		if v.old && g.storages == nil {
			plainNames(resources)
			i.discovery.replaceLegacy(schema.GroupVersion{Group: g.name, Version: v.name}, resources)
		}
		i.discovery.add(g, v.name, len(versions)-n, resources)
		if g.name != aggregator.GroupName {
			i.local = append(i.local, g.local(v.name))
		}
		names = append(names, v.name)
	}
	i.discovery.addGroup(g.name, names)
	return nil
}

// version runs upstream's installer against a container that is thrown away when its routes have been taken.
func (i *installer) version(g *group, info *genericapiserver.APIGroupInfo, v servedVersion, all []servedVersion) ([]apidiscoveryv2.APIResourceDiscovery, error) {
	gv := schema.GroupVersion{Group: g.name, Version: v.name}
	served := map[string][]string{}
	for _, other := range all {
		for path := range other.storages {
			served[path] = append(served[path], schema.GroupVersion{Group: g.name, Version: other.name}.String())
		}
	}
	container, e := restful.NewContainer(), i.encoding(info.Scheme)
	resources, _, err := (&genericapi.APIGroupVersion{
		Storage: v.storages, Root: rootOf(g.name), GroupVersion: gv, AllServedVersionsByResource: served,
		OptionsExternalVersion: info.OptionsExternalVersion, MetaGroupVersion: info.MetaGroupVersion,
		Serializer: e.serializer, ParameterCodec: info.ParameterCodec,
		Typer: info.Scheme, Creater: deepCreater{info.Scheme}, Convertor: info.Scheme, ConvertabilityChecker: info.Scheme, Defaulter: info.Scheme,
		UnsafeConvertor: runtime.UnsafeObjectConvertor(info.Scheme), Namer: runtime.Namer(meta.NewAccessor()), TypeConverter: e.fields,
		EquivalentResourceRegistry: i.equivalent, Authorizer: i.authorizer, Admit: i.admit,
		MinRequestTimeout: minWatch, MaxRequestBodyBytes: maxBodyBytes,
	}).InstallREST(container)
	if err != nil {
		return nil, err
	}
	bodies := bodyTypesOf(gv, resources)
	i.routes.take(container, func(h http.HandlerFunc) http.HandlerFunc {
		if v.old {
			h = lenient(h)
		}
		return bodies.misspelled(h)
	})
	return resources, nil
}

func rootOf(group string) string {
	if group == "" {
		return "/api"
	}
	return "/apis"
}

// groupVersions lists what is served, "v1" and "apps/v1", sorted.
func (i *installer) groupVersions() []string {
	var out []string
	for gv := range i.made {
		out = append(out, gv.String())
	}
	for _, g := range table {
		for _, o := range g.old {
			out = append(out, schema.GroupVersion{Group: g.name, Version: o.version}.String())
		}
	}
	slices.SortFunc(out, strings.Compare)
	return out
}
