package customresources

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/spec3"

	"bramble.dev/server/api/openapi"
)

// Documents makes the OpenAPI documents of custom resources from their definitions, each time that they are asked for.
type Documents struct{ *Server }

var _ openapi.Custom = Documents{}

// published gives the established definitions by group and served version, those of a version by name.
func (d Documents) published(ctx context.Context) (map[schema.GroupVersion][]*apiextensionsv1.CustomResourceDefinition, error) {
	r, err := d.current(ctx)
	if r == nil || err != nil {
		return nil, err
	}
	return r.definitions.served(func(group string) bool { return !d.c.BuiltIn(group) }), nil
}

func pathOf(gv schema.GroupVersion) string { return "apis/" + gv.String() }

// Marks names each document by the definitions that it is made from.
func (d Documents) Marks(ctx context.Context) (map[string]string, error) {
	published, err := d.published(ctx)
	out := map[string]string{}
	for gv, crds := range published {
		var mark strings.Builder
		for _, crd := range crds {
			fmt.Fprintf(&mark, "%s %s %d\n", crd.Name, crd.UID, crd.Generation)
		}
		out[pathOf(gv)] = mark.String()
	}
	return out, err
}

// V3 makes the document of a group and version.
func (d Documents) V3(ctx context.Context, path string) ([]byte, error) {
	published, err := d.published(ctx)
	if err != nil {
		return nil, err
	}
	for gv, crds := range published {
		if pathOf(gv) != path {
			continue
		}
		var all []*spec3.OpenAPI
		for _, crd := range crds {
			one, err := builder.BuildOpenAPIV3(crd, gv.Version, builder.Options{IncludeSelectableFields: true})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", crd.Name, err)
			}
			all = append(all, one)
		}
		doc, err := builder.MergeSpecsV3(all...)
		if err != nil {
			return nil, err
		}
		return json.Marshal(doc)
	}
	return nil, fmt.Errorf("nothing is published as %s", path)
}

// V2 makes the parts that all definitions add to the document of version 2.
func (d Documents) V2(ctx context.Context) (openapi.Parts, error) {
	parts := openapi.NewParts()
	published, err := d.published(ctx)
	if err != nil {
		return parts, err
	}
	for gv, crds := range published {
		for _, crd := range crds {
			if err := addV2(&parts, crd, gv); err != nil {
				return parts, fmt.Errorf("%s: %w", crd.Name, err)
			}
		}
	}
	return parts, nil
}

// addV2 adds one version of a definition. Of the definitions that come with it only its own are new: those that all kinds share are in
// the document.
func addV2(parts *openapi.Parts, crd *apiextensionsv1.CustomResourceDefinition, gv schema.GroupVersion) error {
	doc, err := builder.BuildOpenAPIV2(crd, gv.Version, builder.Options{V2: true, IncludeSelectableFields: true})
	if err != nil {
		return err
	}
	doc.Definitions = handler.PruneDefaults(doc.Definitions)
	text, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	var one openapi.Parts
	if err := json.Unmarshal(text, &one); err != nil {
		return err
	}
	for _, kind := range []string{crd.Spec.Names.Kind, crd.Spec.Names.ListKind} {
		name := definitionName(gv.WithKind(kind))
		if d, ok := one.Definitions[name]; ok {
			parts.Definitions[name] = d
		}
	}
	maps.Copy(parts.Parameters, one.Parameters)
	maps.Copy(parts.Paths, one.Paths)
	return nil
}

// definitionName names a kind in a document: the group's words from the last to the first, the version, the kind.
func definitionName(gvk schema.GroupVersionKind) string {
	words := strings.Split(gvk.Group, ".")
	slices.Reverse(words)
	return strings.Join(append(words, gvk.Version, gvk.Kind), ".")
}
