package spelling

import (
	"reflect"
	"strings"
	"sync"
)

// known holds the fields of the structs that were met; the API's types are a few hundred.
var known sync.Map // reflect.Type to fields

// fieldsOf a struct; nil for anything else.
func fieldsOf(t reflect.Type) fields {
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	if fs, ok := known.Load(t); ok {
		return fs.(fields)
	}
	fs := collect(fields{}, t)
	known.Store(t, fs)
	return fs
}

// collect appends the fields of a struct and of those that it embeds.
func collect(fs fields, t reflect.Type) fields {
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case name == "" && (f.Anonymous || strings.Contains(options, "inline")):
			if inner := shape(f.Type); inner != nil && inner.Kind() == reflect.Struct {
				fs = collect(fs, inner)
			}
		case name == "":
			fs = append(fs, field{f.Name, f.Type})
		default:
			fs = append(fs, field{name, f.Type})
		}
	}
	return fs
}
