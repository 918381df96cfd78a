package customresources

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured/unstructuredscheme"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apimachinery/pkg/runtime/serializer/recognizer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
)

// objectCodec writes custom resources as JSON and reads, beside it, the CBOR that an upstream server may have written (KEP-4222).
func objectCodec() runtime.Codec {
	binary := cbor.NewSerializer(unstructuredscheme.NewUnstructuredCreator(), unstructuredscheme.NewUnstructuredObjectTyper())
	return runtime.NewCodec(unstructured.UnstructuredJSONScheme, recognizer.NewDecoder(binary, unstructured.UnstructuredJSONScheme))
}

// objectOptions gives the storages of custom resources. A storage that is destroyed, because its definition has changed or gone, ends
// its watches: upstream's watch cache does that, which we do without.
type objectOptions struct {
	generic.RESTOptionsGetter
	webhook func(schema.GroupResource) bool // whether one converts between the versions
}

func (g objectOptions) GetRESTOptions(gr schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	o, err := g.RESTOptionsGetter.GetRESTOptions(gr, example)
	if err != nil {
		return o, err
	}
	inner := o.Decorator
	o.Decorator = func(c *storagebackend.ConfigForResource, prefix string, key func(runtime.Object) (string, error), newObject, newList func() runtime.Object,
		attributes storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers,
	) (storage.Interface, factory.DestroyFunc, error) {
		if g.webhook(gr) {
			remembering := *c
			remembering.Codec = &converted{Codec: c.Codec}
			c = &remembering
		}
		s, destroy, err := inner(c, prefix, key, newObject, newList, attributes, triggers, indexers)
		if err != nil {
			return nil, nil, err
		}
		life, end := context.WithCancel(context.Background())
		return &ending{s, life}, func() { end(); destroy() }, nil
	}
	return o, nil
}

// ending is a storage whose watches end with it.
type ending struct {
	storage.Interface
	life context.Context // of the storage
}

func (e *ending) Watch(ctx context.Context, key string, o storage.ListOptions) (watch.Interface, error) {
	ctx, cancel := context.WithCancel(ctx)
	forget := context.AfterFunc(e.life, cancel)
	context.AfterFunc(ctx, func() { forget() })
	w, err := e.Interface.Watch(ctx, key, o)
	if err != nil {
		cancel()
	}
	return w, err
}
