package store

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/google/btree"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/value"
)

// The texts are upstream's; clients match them.
const (
	listExpired     = "The resourceVersion for the provided list is too old."
	continueExpired = "The provided continue parameter is too old " +
		"to display a consistent list result. You can start a new list without " +
		"the continue parameter."
	continueInconsistent = "The provided continue parameter is too old " +
		"to display a consistent list result. You can start a new list without " +
		"the continue parameter, or use the continue token in this response to " +
		"retrieve the remainder of the results. Continuing with the provided " +
		"token results in an inconsistent list - objects that were created, " +
		"modified, or deleted between the time the first chunk was returned " +
		"and now may show up in the list."
)

func (o *objects) GetList(ctx context.Context, key string, opts storage.ListOptions, list runtime.Object) error {
	whole, below, err := o.key(key, opts.Recursive)
	if err != nil {
		return err
	}
	items, err := meta.GetItemsPtr(list)
	if err != nil {
		return err
	}
	v, err := conversion.EnforcePtr(items)
	if err != nil || v.Kind() != reflect.Slice {
		return fmt.Errorf("need ptr to slice: %v", err)
	}
	at, from, err := storage.ValidateListOptions(whole, versioner, opts)
	if err != nil {
		return err
	}
	tree, rev, err := o.tree(whole, at, from, opts)
	if err != nil {
		return err
	}
	p := page{
		objects: o, out: v, newItem: newItemFunc(list, v),
		pred: opts.Predicate, limit: opts.Predicate.Limit,
	}
	if opts.Recursive {
		if from != "" {
			from = from[len(o.res.prefix):]
		}
		err = p.collect(ctx, tree, from, below)
	} else if it, ok := tree.Get(&item{key: below}); ok {
		err = p.single(ctx, it)
	}
	if err != nil {
		return err
	}
	next, left, err := storage.PrepareContinueToken(o.res.prefix+p.last, whole, rev, p.remaining+p.limit, p.more, opts)
	if err != nil {
		return err
	}
	if p.more {
		o.db.pin(o.res, rev, tree)
	}
	if v.IsNil() {
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	}
	if err := versioner.UpdateList(list, uint64(rev), next, left); err != nil {
		return err
	}
	opts.Predicate.SetShardInfoOnList(list)
	return nil
}

// tree finds the snapshot that a list reads, and its revision.
func (o *objects) tree(whole string, at int64, from string, opts storage.ListOptions) (*btree.BTreeG[*item], int64, error) {
	if at <= 0 {
		t, rev := o.db.present(o.res)
		return t, rev, atLeast(opts.ResourceVersion, rev)
	}
	t, have, err := o.db.at(o.res, at)
	switch {
	case errors.Is(err, errFuture):
		return nil, 0, storage.NewTooLargeResourceVersionError(uint64(at), uint64(have), tooLargeRetry)
	case err != nil && opts.Predicate.Continue != "":
		return nil, 0, expiredContinue(from, whole)
	case err != nil:
		return nil, 0, apierrors.NewResourceExpired(listExpired)
	}
	return t, at, nil
}

// expiredContinue is 410 with a token to go on from the present state.
func expiredContinue(from, whole string) error {
	token, err := storage.EncodeContinue(from, whole, -1)
	if err != nil {
		return apierrors.NewResourceExpired(continueExpired)
	}
	e := apierrors.NewResourceExpired(continueInconsistent)
	e.ErrStatus.ListMeta.Continue = token
	return e
}

// newItemFunc makes what the list's codec decodes into. Items of an unstructured list keep its version.
func newItemFunc(list runtime.Object, v reflect.Value) func() runtime.Object {
	if u, ok := list.(*unstructured.UnstructuredList); ok {
		if version := u.GetAPIVersion(); version != "" {
			return func() runtime.Object {
				return &unstructured.Unstructured{Object: map[string]any{"apiVersion": version}}
			}
		}
	}
	elem := v.Type().Elem()
	return func() runtime.Object { return reflect.New(elem).Interface().(runtime.Object) }
}

// page is one answer to a list.
type page struct {
	*objects
	out     reflect.Value
	newItem func() runtime.Object
	pred    storage.SelectionPredicate
	limit   int64 // 0: none

	last      string // the key of the last object looked at
	more      bool   // there are objects after it
	remaining int64  // how many, when nothing is selected
}

// collect looks at the objects from a key on, below a prefix, until the page is full.
func (p *page) collect(ctx context.Context, tree *btree.BTreeG[*item], from, prefix string) error {
	p.grow(tree.Len())
	err := p.db.scan(tree, from, prefix, p.room, func(it *item, stored []byte) (bool, error) {
		err := p.add(ctx, it, stored)
		return !p.full(), err
	})
	if err != nil || !p.full() {
		return err
	}
	tree.AscendGreaterOrEqual(&item{key: p.last + "\x00"}, func(it *item) bool {
		if !strings.HasPrefix(it.key, prefix) {
			return false
		}
		p.more = true
		p.remaining++
		return p.pred.Empty() // how many remain is told only where all count
	})
	return nil
}

func (p *page) full() bool { return p.limit > 0 && int64(p.out.Len()) >= p.limit }

// room is how many objects the page can surely take.
func (p *page) room() int {
	if p.limit == 0 || !p.pred.Empty() {
		return readGroup
	}
	return int(p.limit) - p.out.Len()
}

func (p *page) single(ctx context.Context, it *item) error {
	stored, err := p.db.value(it)
	if err != nil {
		return storage.NewInternalError(err)
	}
	return p.add(ctx, it, stored)
}

func (p *page) add(ctx context.Context, it *item, stored []byte) error {
	whole := p.res.prefix + it.key
	data, _, err := p.Transformer.TransformFromStorage(ctx, stored, value.DefaultContext(whole))
	if err != nil {
		return storage.NewInternalError(fmt.Errorf("unable to transform key %q: %w", whole, err))
	}
	if ctx.Err() != nil {
		return storage.NewTimeoutError(whole, "request did not complete within requested timeout")
	}
	obj, err := p.decodeNew(data, it.rev, p.newItem())
	if err != nil {
		return err
	}
	p.last = it.key
	if ok, err := p.pred.Matches(obj); err == nil && ok {
		p.out.Set(reflect.Append(p.out, reflect.ValueOf(obj).Elem()))
	}
	return nil
}

// grow makes room at once where the number of items is about known.
func (p *page) grow(n int) {
	if p.limit > 0 {
		n = min(n, int(min(p.limit, 10000)))
	}
	if !p.pred.Empty() {
		n = min(n, 256)
	}
	if n > p.out.Cap() && p.out.Len() == 0 {
		p.out.Set(reflect.MakeSlice(p.out.Type(), 0, n))
	}
}
