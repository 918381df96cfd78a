package etcd

import (
	"context"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"

	"bramble.dev/server/store"
)

// patience is how long a write that etcd has waits for the copy to have it too.
const patience = 3 * time.Second

// objects is upstream's storage.Interface for one resource: upstream's own for what goes to etcd, and the copy.
type objects struct {
	storage.Interface
	near storage.Interface
	s    *Store
	new  func() runtime.Object

	prefix string // of the resource, in this process: "/registry/pods/"
}

var versioner = storage.APIObjectVersioner{}

// Storage gives upstream's interface to a resource.
func (s *Store) Storage(r store.Resource) storage.Interface {
	if r.Transformer == nil {
		r.Transformer = identity.NewEncryptCheckTransformer()
	}
	prefix := "/" + strings.Trim(r.Prefix, "/") + "/"
	far, err := etcd3.New(s.client, s.compactor, r.Codec, r.New, nil, s.opts.Prefix, prefix, schema.GroupResource{Resource: strings.Trim(prefix, "/")},
		inside{r.Transformer, s.opts}, etcd3.NewDefaultLeaseManagerConfig(), etcd3.NewDefaultDecoder(r.Codec, versioner), versioner)
	if err != nil {
		panic(err) // the prefix is empty: a mistake in the code, met at the first start
	}
	return &objects{Interface: far, near: s.Local(r), s: s, new: r.New, prefix: DefaultPrefix + prefix}
}

// inside lets values be encrypted under the same names whatever the prefix in etcd, so that a backup fits anywhere.
type inside struct {
	value.Transformer
	o Options
}

func (t inside) TransformFromStorage(ctx context.Context, data []byte, at value.Context) ([]byte, bool, error) {
	return t.Transformer.TransformFromStorage(ctx, data, t.context(at))
}

func (t inside) TransformToStorage(ctx context.Context, data []byte, at value.Context) ([]byte, error) {
	return t.Transformer.TransformToStorage(ctx, data, t.context(at))
}

func (t inside) context(at value.Context) value.Context {
	return value.DefaultContext(t.o.inside(at.AuthenticatedData()))
}

func (o *objects) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	if out == nil {
		out = o.new()
	}
	if err := o.Interface.Create(ctx, key, obj, out, ttl); err != nil {
		return err
	}
	o.seen(ctx, out)
	return nil
}

func (o *objects) Delete(ctx context.Context, key string, out runtime.Object, pre *storage.Preconditions, validate storage.ValidateObjectFunc, cached runtime.Object, opts storage.DeleteOptions) error {
	if err := o.Interface.Delete(ctx, key, out, pre, validate, cached, opts); err != nil {
		return err
	}
	o.seen(ctx, out)
	return nil
}

func (o *objects) GuaranteedUpdate(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool, pre *storage.Preconditions, try storage.UpdateFunc, cached runtime.Object) error {
	if err := o.Interface.GuaranteedUpdate(ctx, key, out, ignoreNotFound, pre, try, cached); err != nil {
		return err
	}
	o.seen(ctx, out)
	return nil
}

// seen waits until the copy has a write that etcd has acknowledged. A copy that is cut off keeps it no longer than upstream's would be
// behind anyway: the write is on disk.
func (o *objects) seen(ctx context.Context, out runtime.Object) {
	m, err := meta.Accessor(out)
	if err != nil {
		return
	}
	revision, err := versioner.ParseResourceVersion(m.GetResourceVersion())
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := o.s.Until(ctx, int64(revision)); err != nil && ctx.Err() == nil {
		o.s.opts.Logger.Debug("a write is acknowledged before the copy has it", "revision", revision, "err", err)
	}
}

// Get asks etcd, unless any state will do.
func (o *objects) Get(ctx context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	if opts.ResourceVersion == "0" {
		return o.near.Get(ctx, key, opts, out)
	}
	return o.Interface.Get(ctx, key, opts, out)
}

func (o *objects) GetList(ctx context.Context, key string, opts storage.ListOptions, list runtime.Object) error {
	if err := o.reach(ctx, opts); err != nil {
		return err
	}
	err := o.near.GetList(ctx, key, opts, list)
	if apierrors.IsResourceExpired(err) {
		return o.Interface.GetList(ctx, key, opts, list)
	}
	return err
}

func (o *objects) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	if err := o.reach(ctx, opts); err != nil {
		return nil, err
	}
	if rv, err := versioner.ParseResourceVersion(opts.ResourceVersion); err == nil && rv > 0 && !o.s.Remembers(o.prefix, int64(rv)) &&
		(opts.SendInitialEvents == nil || !*opts.SendInitialEvents) {
		return o.Interface.Watch(ctx, key, opts) // a watch that another server, or this one before its start, has begun
	}
	return o.near.Watch(ctx, key, opts)
}

// reach makes the copy as current as a request wants it: like etcd itself where it names no revision, or one by a token that another
// server may have given; and no older than what its client has seen.
func (o *objects) reach(ctx context.Context, opts storage.ListOptions) error {
	if opts.ResourceVersion == "" || opts.Predicate.Continue != "" {
		return o.s.present(ctx)
	}
	rv, err := versioner.ParseResourceVersion(opts.ResourceVersion)
	if err != nil || int64(rv) <= o.s.Revision() {
		return nil // what is wrong with it is said by who answers
	}
	return o.s.present(ctx)
}

func (o *objects) Stats(ctx context.Context) (storage.Stats, error) { return o.near.Stats(ctx) }

func (o *objects) EnableResourceSizeEstimation(keys storage.KeysFunc) error {
	return o.near.EnableResourceSizeEstimation(keys)
}

func (o *objects) ReadinessCheck() error { return o.s.Ready() }

func (o *objects) RequestWatchProgress(ctx context.Context) error {
	if err := o.s.present(ctx); err != nil {
		return err
	}
	return o.near.RequestWatchProgress(ctx)
}
