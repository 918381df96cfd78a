package store

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
)

// Resource says how the objects under one prefix are written and read.
type Resource struct {
	Prefix string // below "/registry": "/pods", "/apps.example.com/things"
	Codec  runtime.Codec
	New    func() runtime.Object
	// Volatile, when set, names the writes that may be acknowledged from memory.
	Volatile VolatileFunc
	// Transformer, when set, encrypts what memory and disk hold.
	Transformer value.Transformer
	// Started, when set, is told the context of each watch that has sent what was there when it began.
	Started func(context.Context)
}

// objects is upstream's storage.Interface for one resource.
type objects struct {
	Resource
	db            *DB
	res           *resource
	estimateSizes bool
	crowd         crowd
}

var (
	_         storage.Interface = (*objects)(nil)
	versioner                   = storage.APIObjectVersioner{}
)

// Storage gives upstream's interface to a resource. Several may share a prefix (the versions of a custom resource);
// they see the same objects, and must have the same Transformer.
func (d *DB) Storage(r Resource) storage.Interface {
	return d.objects(r)
}

func (d *DB) objects(r Resource) *objects {
	if r.Transformer == nil {
		r.Transformer = identity.NewEncryptCheckTransformer()
	}
	r.Prefix = cleanPrefix(r.Prefix)
	res := d.resource(root + r.Prefix)
	res.transformer.Store(&r.Transformer)
	return &objects{Resource: r, db: d, res: res}
}

// key gives the whole key ("/registry/pods/ns/name") and what is below the prefix ("ns/name").
func (o *objects) key(key string, recursive bool) (whole, below string, err error) {
	k, err := storage.PrepareKey(o.Prefix, key, recursive)
	if err != nil {
		return "", "", err
	}
	return root + k, k[len(o.Prefix):], nil
}

func (o *objects) Versioner() storage.Versioner { return versioner }

func (o *objects) Get(ctx context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	whole, below, err := o.key(key, false)
	if err != nil {
		return err
	}
	want, err := versioner.ParseResourceVersion(opts.ResourceVersion)
	if err != nil {
		return err // as it is, and so a 500: upstream's get of one object words it no better
	}
	it, rev := o.db.get(o.res, below)
	if err := reached(want, rev); err != nil {
		return err
	}
	if it == nil {
		if opts.IgnoreNotFound {
			return runtime.SetZeroValue(out)
		}
		return storage.NewKeyNotFoundError(whole, 0)
	}
	data, _, err := o.read(ctx, whole, it)
	if err != nil {
		return err
	}
	return o.decode(data, it.rev, out)
}

// read gives an object's encoding, decrypted, and whether it should be written anew for the sake of its encryption.
func (o *objects) read(ctx context.Context, whole string, it *item) (data []byte, stale bool, err error) {
	_, atHand := it.inMemory()
	stored, err := o.db.value(it)
	if err != nil {
		return nil, false, storage.NewInternalError(err)
	}
	if !atHand {
		o.db.cache.offer(it, stored)
	}
	data, stale, err = o.Transformer.TransformFromStorage(ctx, stored, value.DefaultContext(whole))
	if err != nil {
		return nil, false, storage.NewInternalError(err)
	}
	return data, stale, nil
}

func (o *objects) decode(data []byte, rev int64, out runtime.Object) error {
	if _, err := conversion.EnforcePtr(out); err != nil {
		return fmt.Errorf("unable to convert output object to pointer: %w", err)
	}
	if _, _, err := o.Codec.Decode(data, nil, out); err != nil {
		return err
	}
	return versioner.UpdateObject(out, uint64(rev))
}

// decodeNew decodes into a new object, for which the codec may choose the type.
func (o *objects) decodeNew(data []byte, rev int64, into runtime.Object) (runtime.Object, error) {
	obj, _, err := o.Codec.Decode(data, nil, into)
	if err != nil {
		return nil, err
	}
	return obj, versioner.UpdateObject(obj, uint64(rev))
}

// tooLargeRetry is after how many seconds a client may ask again for a revision that has not been yet; upstream's watch cache says so.
const tooLargeRetry = 1

// atLeast holds the promise that data is not older than a revision that the caller has seen.
func atLeast(rv string, have int64) error {
	if rv == "" {
		return nil
	}
	want, err := versioner.ParseResourceVersion(rv)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	return reached(want, have)
}

// reached refuses a revision that has not been yet.
func reached(want uint64, have int64) error {
	if want > uint64(have) {
		return storage.NewTooLargeResourceVersionError(want, uint64(have), tooLargeRetry)
	}
	return nil
}

// Stats counts the objects, and tells their average size once EnableResourceSizeEstimation was called.
func (o *objects) Stats(context.Context) (storage.Stats, error) {
	o.db.mu.RLock()
	defer o.db.mu.RUnlock()
	s := storage.Stats{ObjectCount: int64(o.res.tree.Len())}
	if o.estimateSizes && s.ObjectCount > 0 {
		s.EstimatedAverageObjectSizeBytes = o.res.bytes / s.ObjectCount
	}
	return s, nil
}

// EnableResourceSizeEstimation needs no list of keys: the sizes are known.
func (o *objects) EnableResourceSizeEstimation(keys storage.KeysFunc) error {
	if keys == nil {
		return errors.New("KeysFunc cannot be nil")
	}
	o.db.mu.Lock()
	defer o.db.mu.Unlock()
	if o.estimateSizes {
		return errors.New("resourceSizeEstimator already enabled")
	}
	o.estimateSizes = true
	return nil
}

func (o *objects) ReadinessCheck() error { return o.db.Ready() }

func (o *objects) GetCurrentResourceVersion(context.Context) (uint64, error) {
	return uint64(o.db.Revision()), nil
}

// CompactRevision is the latest revision of which older ones can no longer be listed; 0 when there is none.
func (o *objects) CompactRevision() int64 {
	o.db.mu.RLock()
	defer o.db.mu.RUnlock()
	return o.db.compacted
}

// RequestWatchProgress sends every watch of this resource that takes bookmarks one at once.
func (o *objects) RequestWatchProgress(context.Context) error {
	o.db.mu.Lock()
	defer o.db.mu.Unlock()
	o.res.asked++
	o.res.wakeAll()
	return nil
}
