package store

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/value"
)

func (o *objects) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	whole, below, err := o.key(key, false)
	if err != nil {
		return err
	}
	if v, err := versioner.ObjectResourceVersion(obj); err == nil && v != 0 {
		return storage.ErrResourceVersionSetOnCreate
	}
	if err := versioner.PrepareObjectForStorage(obj); err != nil {
		return fmt.Errorf("PrepareObjectForStorage failed: %w", err)
	}
	data, err := runtime.Encode(o.Codec, obj)
	if err != nil {
		return err
	}
	w, err := o.write(ctx, whole, below, data, ttl)
	if err != nil {
		return err
	}
	w.lazy = o.Volatile != nil && o.Volatile(nil, obj)
	c, st, err := o.submit(ctx, w)
	if err != nil {
		return err
	}
	if c == nil {
		// Exists is told only of what is durable.
		if err := st.batch.wait(); err != nil {
			return storage.NewInternalError(err)
		}
		return storage.NewKeyExistsError(whole, 0)
	}
	if out == nil {
		return nil
	}
	return o.decode(data, c.rev, out)
}

// write prepares the change of one object to the given encoding.
func (o *objects) write(ctx context.Context, whole, below string, data []byte, ttl uint64) (write, error) {
	stored, err := o.Transformer.TransformToStorage(ctx, data, value.DefaultContext(whole))
	if err != nil {
		return write{}, storage.NewInternalError(err)
	}
	w := write{res: o.res, key: below, value: bytes.Clone(stored)}
	if ttl > 0 {
		w.expires = o.db.now().Add(time.Duration(ttl) * time.Second).Unix()
	}
	return w, nil
}

func (o *objects) submit(ctx context.Context, w write) (*change, state, error) {
	if w.value != nil && !w.lazy {
		w.packed = pack(w.value) // here and not in the commit, for which the others wait
	}
	c, st, err := o.db.submit(ctx, w)
	if err != nil {
		err = storage.NewInternalError(fmt.Errorf("write %s%s: %w", o.res.prefix, w.key, err))
	}
	return c, st, err
}

// current is an object's state decoded, to base a write on.
type current struct {
	state
	obj    runtime.Object // nil when it could not be read and that was expected
	stored []byte
	data   []byte
	stale  bool
}

// current decodes a state into a new object like the given one.
func (o *objects) current(ctx context.Context, whole string, st state, like reflect.Value, ignoreNotFound, expectDamage bool) (current, error) {
	cur := current{state: st}
	if u, ok := like.Addr().Interface().(runtime.Unstructured); ok {
		cur.obj = u.NewEmptyInstance()
	} else {
		cur.obj = reflect.New(like.Type()).Interface().(runtime.Object)
	}
	if st.item == nil {
		if !ignoreNotFound {
			return cur, storage.NewKeyNotFoundError(whole, 0)
		}
		return cur, runtime.SetZeroValue(cur.obj)
	}
	var err error
	if cur.stored, err = o.db.value(st.item); err == nil {
		cur.data, cur.stale, err = o.Transformer.TransformFromStorage(ctx, cur.stored, value.DefaultContext(whole))
	}
	if err != nil {
		err = storage.NewInternalError(err)
	} else {
		err = o.decode(cur.data, st.item.rev, cur.obj)
	}
	switch {
	case err == nil && expectDamage:
		return cur, storage.NewInvalidObjError(whole, "unsafe deletion is not allowed because the object is decodable from storage")
	case err != nil && expectDamage:
		cur.obj = nil
		return cur, nil
	}
	return cur, err
}

// settled passes on what is told to the caller, once the state that it was derived from is durable.
func (cur current) settled(err error) error {
	if e := cur.batch.wait(); e != nil {
		return storage.NewInternalError(e)
	}
	return err
}

// Delete ignores the suggested object: the present one is in memory.
func (o *objects) Delete(ctx context.Context, key string, out runtime.Object, pre *storage.Preconditions,
	validate storage.ValidateObjectFunc, _ runtime.Object, opts storage.DeleteOptions) error {
	whole, below, err := o.key(key, false)
	if err != nil {
		return err
	}
	like, err := conversion.EnforcePtr(out)
	if err != nil {
		return fmt.Errorf("unable to convert output object to pointer: %w", err)
	}
	damaged := opts.ExpectTransformOrDecodeError
	st := o.db.latest(o.res, below)
	for {
		cur, err := o.current(ctx, whole, st, like, false, damaged)
		if err != nil {
			return cur.settled(err)
		}
		if pre != nil {
			if err := pre.Check(whole, cur.obj); err != nil {
				return cur.settled(err)
			}
		}
		if err := validate(ctx, cur.obj); err != nil {
			return cur.settled(err)
		}
		c, next, err := o.submit(ctx, write{res: o.res, key: below, expect: st.rev(), prevValue: cur.stored})
		if err != nil {
			return err
		}
		if c == nil {
			st = next
			continue
		}
		if damaged {
			return nil
		}
		return o.decode(cur.data, c.rev, out)
	}
}

// GuaranteedUpdate ignores the suggested object: the present one is in memory.
func (o *objects) GuaranteedUpdate(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool,
	pre *storage.Preconditions, try storage.UpdateFunc, _ runtime.Object) error {
	whole, below, err := o.key(key, false)
	if err != nil {
		return err
	}
	like, err := conversion.EnforcePtr(out)
	if err != nil {
		return fmt.Errorf("unable to convert output object to pointer: %w", err)
	}
	st := o.db.latest(o.res, below)
	for {
		cur, err := o.current(ctx, whole, st, like, ignoreNotFound, false)
		if err != nil {
			return cur.settled(err)
		}
		if err := pre.Check(whole, cur.obj); err != nil {
			return cur.settled(err)
		}
		w, data, err := o.update(ctx, whole, below, cur, try)
		if err != nil {
			return cur.settled(err)
		}
		if w == nil { // nothing has changed
			if err := cur.settled(nil); err != nil {
				return err
			}
			return o.decode(cur.data, cur.rev(), out)
		}
		c, next, err := o.submit(ctx, *w)
		if err != nil {
			return err
		}
		if c != nil {
			return o.decode(data, c.rev, out)
		}
		st = next
	}
}

// update makes one attempt's write; nil when the object stays as it is.
func (o *objects) update(ctx context.Context, whole, below string, cur current, try storage.UpdateFunc) (*write, []byte, error) {
	obj, ttl, err := try(cur.obj, storage.ResponseMeta{ResourceVersion: uint64(cur.rev())})
	if err != nil {
		return nil, nil, err
	}
	if err := versioner.PrepareObjectForStorage(obj); err != nil {
		return nil, nil, fmt.Errorf("PrepareObjectForStorage failed: %w", err)
	}
	data, err := runtime.Encode(o.Codec, obj)
	if err != nil {
		return nil, nil, err
	}
	if cur.item != nil && !cur.stale && bytes.Equal(data, cur.data) {
		return nil, nil, nil
	}
	var seconds uint64
	if ttl != nil {
		seconds = *ttl
	}
	w, err := o.write(ctx, whole, below, data, seconds)
	if err != nil {
		return nil, nil, err
	}
	w.expect, w.prevValue = cur.rev(), cur.stored
	w.lazy, err = o.isVolatile(cur, obj)
	return &w, data, err
}

// isVolatile asks about an update. The attempt may have changed the old object in place, so it is decoded again.
func (o *objects) isVolatile(cur current, obj runtime.Object) (bool, error) {
	if o.Volatile == nil {
		return false, nil
	}
	if cur.item == nil {
		return o.Volatile(nil, obj), nil
	}
	old, err := o.decodeNew(cur.data, cur.rev(), o.New())
	if err != nil {
		return false, err
	}
	return o.Volatile(old, obj), nil
}
