package api

import (
	"reflect"
	"strings"
	"unsafe"

	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"
	printerstorage "k8s.io/kubernetes/pkg/printers/storage"
)

// sharedTables prints the tables of all kinds. Each of upstream's constructors makes a printer of its own that knows every kind: a
// hundred and more copies, megabytes that an idle board would carry.
var sharedTables = printerstorage.TableConvertor{TableGenerator: printers.NewTableGenerator().With(printersinternal.AddHandlers)}

var (
	registryStore = reflect.TypeOf((*registry.Store)(nil))
	tableType     = reflect.TypeOf(printerstorage.TableConvertor{})
)

// shareTables gives a storage the shared printer in place of its own. Upstream offers no way in, and status and scale storages
// hide their registry in a private field, hence the reflection; TestTablesAreShared fails when upstream's shape has changed.
func shareTables(s rest.Storage) {
	eachTable(reflect.ValueOf(s), map[uintptr]bool{}, 0, func(t *printerstorage.TableConvertor) { *t = sharedTables })
}

// eachTable visits the table converters that are reachable from a storage within upstream's registries.
func eachTable(v reflect.Value, seen map[uintptr]bool, depth int, visit func(*printerstorage.TableConvertor)) {
	if depth > 6 {
		return
	}
	switch v.Kind() {
	case reflect.Interface:
		if !v.IsNil() {
			eachTable(v.Elem(), seen, depth, visit)
		}
	case reflect.Pointer:
		if v.IsNil() || seen[v.Pointer()] {
			return
		}
		seen[v.Pointer()] = true
		if v.Type() == registryStore {
			store := (*registry.Store)(v.UnsafePointer())
			if t, ok := store.TableConvertor.(printerstorage.TableConvertor); ok {
				visit(&t)
				store.TableConvertor = t
			}
			return
		}
		if p := v.Type().Elem().PkgPath(); strings.HasPrefix(p, "k8s.io/kubernetes/pkg/registry") || strings.HasPrefix(p, "bramble.dev/server/api") {
			eachTable(v.Elem(), seen, depth+1, visit)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Field(i)
			if f.Type() == tableType && f.CanAddr() {
				visit((*printerstorage.TableConvertor)(unsafe.Pointer(f.UnsafeAddr())))
				continue
			}
			switch f.Kind() {
			case reflect.Pointer, reflect.Interface, reflect.Struct:
				eachTable(f, seen, depth+1, visit)
			}
		}
	}
}
