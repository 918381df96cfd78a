package fields

import (
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apiserver"
	definitions "k8s.io/apiextensions-apiserver/pkg/client/applyconfiguration"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// Upstream's converter and ours find the same structure in every kind that either knows.
func TestSchemaIsUpstreams(t *testing.T) {
	if kinds := sameFields(t, applyconfigurations.NewTypeConverter(scheme.Scheme), scheme.Scheme); kinds < 100 {
		t.Errorf("only %d kinds were compared", kinds)
	}
	if kinds := sameFields(t, definitions.NewTypeConverter(apiserver.Scheme), apiserver.Scheme); kinds != 2 {
		t.Errorf("%d versions of definitions of custom resources were compared, there are two", kinds)
	}
}

// sameFields counts the kinds of a scheme that it has compared.
func sameFields(t *testing.T, upstream managedfields.TypeConverter, scheme *runtime.Scheme) (kinds int) {
	ours := NewTypeConverter(scheme)
	for gvk := range scheme.AllKnownTypes() {
		if strings.HasSuffix(gvk.Kind, "Options") || strings.HasSuffix(gvk.Kind, "List") || gvk.Version == "__internal" || gvk.Kind == "WatchEvent" {
			continue
		}
		o, err := scheme.New(gvk)
		if err != nil {
			t.Fatal(err)
		}
		o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind(gvk))
		want, err := upstream.ObjectToTyped(o)
		if err != nil {
			continue // a kind that has no apply configuration
		}
		got, err := ours.ObjectToTyped(o)
		if err != nil {
			t.Errorf("%v: %v", gvk, err)
			continue
		}
		kinds++
		if a, b := describe(got), describe(want); a != b {
			t.Errorf("%v\n got %s\nwant %s", gvk, a, b)
		}
	}
	return kinds
}

func describe(v *typed.TypedValue) string {
	var b strings.Builder
	seen := map[string]bool{}
	var ref func(smd.TypeRef)
	ref = func(r smd.TypeRef) {
		a, ok := v.Schema().Resolve(r)
		if r.NamedType != nil {
			b.WriteString(*r.NamedType)
			if seen[*r.NamedType] {
				return
			}
			seen[*r.NamedType] = true
		}
		if !ok {
			b.WriteString("?")
		}
		if a.Scalar != nil {
			b.WriteString(":" + string(*a.Scalar))
		}
		if a.List != nil {
			b.WriteString("[" + string(a.List.ElementRelationship) + strings.Join(a.List.Keys, "+"))
			ref(a.List.ElementType)
			b.WriteString("]")
		}
		if a.Map != nil {
			b.WriteString("{" + string(a.Map.ElementRelationship))
			ref(a.Map.ElementType)
			for _, f := range a.Map.Fields {
				b.WriteString(" " + f.Name)
				if d, ok := f.Default.(string); ok {
					b.WriteString("=" + d)
				}
				ref(f.Type)
			}
			b.WriteString("}")
		}
	}
	ref(v.TypeRef())
	return b.String()
}
