package api

import (
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// typeConverter tells field managers the structure of each kind. Its schema takes megabytes to parse, so that is done at the
// first write.
type typeConverter struct {
	schema  func() managedfields.TypeConverter
	deduced managedfields.TypeConverter
}

func newTypeConverter() managedfields.TypeConverter {
	return &typeConverter{
		schema:  sync.OnceValue(func() managedfields.TypeConverter { return applyconfigurations.NewTypeConverter(legacyscheme.Scheme) }),
		deduced: managedfields.NewDeducedTypeConverter(),
	}
}

// ObjectToTyped falls back to what the object itself shows where the schema lacks a kind: TokenRequest and Binding, which are
// only ever created and have no apply configuration.
func (c *typeConverter) ObjectToTyped(o runtime.Object, options ...typed.ValidationOptions) (*typed.TypedValue, error) {
	v, err := c.schema().ObjectToTyped(o, options...)
	if err != nil && strings.Contains(err.Error(), "no type found matching") {
		return c.deduced.ObjectToTyped(o, options...)
	}
	return v, err
}

func (c *typeConverter) TypedToObject(v *typed.TypedValue) (runtime.Object, error) {
	return c.schema().TypedToObject(v)
}
