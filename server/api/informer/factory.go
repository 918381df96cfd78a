package informer

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/versioning"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/informers/internalinterfaces"
	"k8s.io/client-go/tools/cache"

	"bramble.dev/server/store"
)

// Factory makes one informer a kind. It is an informers.SharedInformerFactory.
type Factory struct {
	groups
	ctx      context.Context
	db       store.Store
	scheme   *runtime.Scheme
	codecs   serializer.CodecFactory
	prefixOf func(schema.GroupResource) string
	log      *slog.Logger
	kept     map[reflect.Type]bool
	secret   func(schema.GroupResource) value.Transformer
	wait     sync.WaitGroup
	held     chan struct{} // closed by Start; nil: informers run from the moment that somebody listens
	begin    sync.Once

	mu   sync.Mutex
	made map[reflect.Type]*informer
}

var _ informers.SharedInformerFactory = &Factory{}

// Option changes a factory.
type Option func(*Factory)

// Keep holds the objects of these kinds decoded in memory: for small kinds that are read on every request. Handlers of such a kind
// are told by one goroutine, in step with what listers find.
func Keep(kinds ...runtime.Object) Option {
	return func(f *Factory) {
		for _, k := range kinds {
			f.kept[reflect.TypeOf(k)] = true
		}
	}
}

// Hold keeps informers still until Start, for handlers that may be told of nothing before all of them have been wired.
func Hold() Option {
	return func(f *Factory) { f.held = make(chan struct{}) }
}

// Transform names the encryption of resources; it must be the one that they are written with.
func Transform(of func(schema.GroupResource) value.Transformer) Option {
	return func(f *Factory) { f.secret = of }
}

// NewFactory makes a factory whose informers end with ctx. prefixOf gives a resource's prefix in the store, such as
// "/registry/pods".
func NewFactory(ctx context.Context, db store.Store, scheme *runtime.Scheme, prefixOf func(schema.GroupResource) string, log *slog.Logger, options ...Option) *Factory {
	f := &Factory{ctx: ctx, db: db, scheme: scheme, codecs: serializer.NewCodecFactory(scheme), prefixOf: prefixOf, log: log,
		kept: map[reflect.Type]bool{}, secret: func(schema.GroupResource) value.Transformer { return nil }, made: map[reflect.Type]*informer{}}
	f.groups.f = f
	for _, o := range options {
		o(f)
	}
	return f
}

// Wait returns when every goroutine of the factory has ended, after its context is done.
func (f *Factory) Wait() { f.wait.Wait() }

// InformerFor is called by the typed informers. Their constructor, which would list and watch through a client, is not used.
func (f *Factory) InformerFor(obj runtime.Object, _ internalinterfaces.NewInformerFunc) cache.SharedIndexInformer {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := reflect.TypeOf(obj)
	if i := f.made[t]; i != nil {
		return i
	}
	i := f.make(obj, t)
	f.made[t] = i
	return i
}

func (f *Factory) make(obj runtime.Object, t reflect.Type) *informer {
	kinds, _, err := f.scheme.ObjectKinds(obj)
	if err != nil {
		panic(fmt.Sprintf("informer: %T is not in the scheme: %v", obj, err)) // a mistake in the code, met at the first start
	}
	gvk := kinds[0]
	gvr, _ := meta.UnsafeGuessKindToResource(gvk)
	prefix := f.prefixOf(gvr.GroupResource())
	i := &informer{f: f, gvk: gvk, gvr: gvr, prefix: prefix, decoder: f.decoderTo(gvk.GroupVersion())}
	i.live = &liveIndexer{i: i, storage: f.db.Local(store.Resource{
		Codec: runtime.NewCodec(f.codecs.LegacyCodec(gvk.GroupVersion()), i.decoder), Prefix: storagePrefix(prefix),
		New: i.object, Transformer: f.secret(gvr.GroupResource()),
	})}
	if f.kept[t] {
		i.kept = newKept(i)
	}
	return i
}

// decoderTo reads objects as one version of their kind, whatever version they were written in: kinds that became stable a while ago are
// still written as before, so that an older server can read them.
func (f *Factory) decoderTo(version schema.GroupVersion) runtime.Decoder {
	return versioning.NewCodec(nil, f.codecs.UniversalDeserializer(), convertor{runtime.UnsafeObjectConvertor(f.scheme)}, f.scheme, f.scheme, f.scheme,
		runtime.DisabledGroupVersioner, schema.GroupVersions{version}, f.scheme.Name())
}

// convertor converts versions into each other by way of the internal one where there is no direct way. Not every scheme has an internal
// version.
type convertor struct{ runtime.ObjectConvertor }

func (c convertor) Convert(in, out, context any) error {
	err := c.ObjectConvertor.Convert(in, out, context)
	if err == nil {
		return nil
	}
	hub, hubErr := c.internal(in)
	if hubErr != nil {
		return err
	}
	return c.ObjectConvertor.Convert(hub, out, context)
}

func (c convertor) ConvertToVersion(in runtime.Object, version runtime.GroupVersioner) (runtime.Object, error) {
	out, err := c.ObjectConvertor.ConvertToVersion(in, version)
	if err == nil {
		return out, nil
	}
	hub, hubErr := c.internal(in)
	if hubErr != nil {
		return nil, err
	}
	return c.ObjectConvertor.ConvertToVersion(hub, version)
}

func (c convertor) internal(in any) (runtime.Object, error) {
	o, ok := in.(runtime.Object)
	if !ok {
		return nil, fmt.Errorf("%T is no object", in)
	}
	return c.ObjectConvertor.ConvertToVersion(o, runtime.InternalGroupVersioner)
}

func storagePrefix(prefix string) string { return prefix[len("/registry"):] }

// Current waits until the informer of a kept kind has told its handlers, and shows its readers, all that the store holds now.
func (f *Factory) Current(ctx context.Context, obj runtime.Object) error {
	i := f.InformerFor(obj, nil).(*informer)
	if i.kept == nil {
		return nil // it reads the store
	}
	return i.kept.current(ctx)
}

// ForResource gives the informer of a resource, for callers that know no Go type.
func (f *Factory) ForResource(gvr schema.GroupVersionResource) (informers.GenericInformer, error) {
	for gvk := range f.scheme.AllKnownTypes() {
		if r, _ := meta.UnsafeGuessKindToResource(gvk); r == gvr {
			obj, err := f.scheme.New(gvk)
			if err != nil {
				return nil, err
			}
			return generic{f.InformerFor(obj, nil), gvr.GroupResource()}, nil
		}
	}
	return nil, fmt.Errorf("no informer for %v", gvr)
}

type generic struct {
	informer cache.SharedIndexInformer
	gr       schema.GroupResource
}

func (g generic) Informer() cache.SharedIndexInformer { return g.informer }
func (g generic) Lister() cache.GenericLister {
	return cache.NewGenericLister(g.informer.GetIndexer(), g.gr)
}

// Start lets informers run that Hold has kept still.
func (f *Factory) Start(<-chan struct{}) {
	if f.held != nil {
		f.begin.Do(func() { close(f.held) })
	}
}

// What follows exists because the interface asks for it.

func (f *Factory) InformerName() *cache.InformerName { return nil }
func (f *Factory) StartWithContext(context.Context)  { f.Start(nil) }
func (f *Factory) Shutdown()                         {}
func (f *Factory) WaitForCacheSync(<-chan struct{}) map[reflect.Type]bool {
	return map[reflect.Type]bool{}
}
func (f *Factory) WaitForCacheSyncWithContext(context.Context) cache.SyncResult {
	return cache.SyncResult{}
}
