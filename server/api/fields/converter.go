package fields

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

var parser = typed.Parser{Schema: schema.Schema{Types: types}}

// What the types point to: addresses of variables are laid out by the linker, where calls would run at every start.
var (
	atomic    = schema.Atomic
	separable = schema.Separable
	numeric   = schema.Numeric
	text      = schema.String
	boolean   = schema.Boolean
	untyped   = schema.Untyped
)

// NewTypeConverter converts objects of a scheme's built-in kinds.
func NewTypeConverter(scheme *runtime.Scheme) managedfields.TypeConverter {
	return converter{managedfields.NewSchemeTypeConverter(scheme, &parser), managedfields.NewDeducedTypeConverter()}
}

type converter struct {
	managedfields.TypeConverter
	deduced managedfields.TypeConverter
}

// ObjectToTyped falls back to what the object itself shows where the schema lacks a kind: TokenRequest and Binding, which are
// only ever created and have no apply configuration.
func (c converter) ObjectToTyped(o runtime.Object, options ...typed.ValidationOptions) (*typed.TypedValue, error) {
	v, err := c.TypeConverter.ObjectToTyped(o, options...)
	if err != nil && strings.Contains(err.Error(), "no type found matching") {
		return c.deduced.ObjectToTyped(o, options...)
	}
	return v, err
}
