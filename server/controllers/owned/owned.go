// Package owned keeps the owner references of what a controller's selector
// finds: it adopts what nobody controls and releases what no longer matches.
//
// Invariant: an object that somebody else controls is never touched, and an
// owner that is being deleted neither adopts nor releases.
//
//	pods, err := owned.Claims[corev1.Pod]{
//		Owner: set, Kind: kind, Selector: selector, Fresh: get,
//		In: c.Pods, Patch: c.control.Patch, Writes: &c.writes,
//	}.Claim(ctx)
//
// Tests: server/controllers/replicaset/model_test.go
package owned

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

// decision is what should be done about one object.
type decision int

// What an owner may have to do about an object.
const (
	ignore decision = iota
	keep
	adopt
	release
)

// decide says what an owner does about an object.
func decide(owner metav1.Object, selector labels.Selector, object metav1.Object) decision {
	matches := selector.Matches(labels.Set(object.GetLabels()))
	deleting := owner.GetDeletionTimestamp() != nil
	ref := metav1.GetControllerOfNoCopy(object)
	switch {
	case ref != nil && ref.UID != owner.GetUID():
		return ignore
	case ref != nil && matches:
		return keep
	case ref != nil && !deleting:
		return release
	case ref != nil || deleting || !matches || object.GetDeletionTimestamp() != nil:
		return ignore
	case owner.GetNamespace() != "" && owner.GetNamespace() != object.GetNamespace():
		return ignore
	}
	return adopt
}

// Claims are an owner and what it claims objects by: which it keeps, adopts and releases (decide), and how that is written.
type Claims[T any] struct {
	Owner    metav1.Object
	Kind     schema.GroupVersionKind
	Selector labels.Selector
	// Finalizers are given to what is adopted and taken from what is released.
	Finalizers []string
	// Adoptable, if set, may keep an object from being adopted or kept.
	Adoptable func(*T) bool
	// Fresh reads the owner from the API: before the first adoption it is
	// checked that the owner is not about to go.
	Fresh func(context.Context) (metav1.Object, error)
	// In is where the objects are found.
	In *cache.Cache[T]
	// Patch writes a strategic merge patch of the object's metadata, and Writes
	// remembers it, as a write of the owner's key.
	Patch  func(ctx context.Context, object *T, patch []byte) (*T, error)
	Writes *loop.Writes
}

// Claim returns the objects that the owner controls now: of its own, and of
// those in its namespace that nobody controls.
func (c Claims[T]) Claim(ctx context.Context) ([]*T, error) {
	return c.Among(ctx, append(c.In.ByOwner(c.Owner.GetUID()), c.In.Orphans(c.Owner.GetNamespace())...))
}

// Among is Claim of these alone. An error concerns only some of them, and then
// none is returned, so that nobody acts on half of it.
func (c Claims[T]) Among(ctx context.Context, candidates []*T) ([]*T, error) {
	o := owner{object: c.Owner, kind: c.Kind, finalizers: c.Finalizers}
	var out []*T
	var errs []error
	checked := false
	for _, object := range candidates {
		m := any(object).(metav1.Object)
		what := decide(c.Owner, c.Selector, m)
		if (what == adopt || what == keep) && c.Adoptable != nil && !c.Adoptable(object) {
			if what == adopt {
				continue
			}
			what = release
		}
		patch := func(patch []byte) error {
			patched, err := c.Patch(ctx, object, patch)
			return loop.Wrote(c.Writes, loop.KeyOf(o.object), c.In, patched, err)
		}
		switch what {
		case keep:
			out = append(out, object)
		case release:
			errs = append(errs, o.release(m, patch))
		case adopt:
			if !checked {
				if err := o.mayAdopt(c.Fresh(ctx)); err != nil {
					return nil, err
				}
				checked = true
			}
			adopted, err := o.adopt(m, patch)
			errs = append(errs, err)
			if adopted {
				out = append(out, object)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

// owner is what of a Claims does not depend on the kind of what is owned: the
// compiler writes it once.
type owner struct {
	object     metav1.Object
	kind       schema.GroupVersionKind
	finalizers []string
}

func (o owner) mayAdopt(fresh metav1.Object, err error) error {
	if err != nil {
		return fmt.Errorf("read %s %s before adopting: %w", o.kind.Kind, o.object.GetName(), err)
	}
	if fresh.GetUID() != o.object.GetUID() {
		return fmt.Errorf("original %v %v/%v is gone: got uid %v, wanted %v", o.kind.Kind, o.object.GetNamespace(), o.object.GetName(), fresh.GetUID(), o.object.GetUID())
	}
	if fresh.GetDeletionTimestamp() != nil {
		return fmt.Errorf("%v/%v has just been deleted at %v", o.object.GetNamespace(), o.object.GetName(), fresh.GetDeletionTimestamp())
	}
	return nil
}

func (o owner) adopt(m metav1.Object, patch func([]byte) error) (bool, error) {
	err := patch(adoptPatch(o.object, o.kind, m.GetUID(), o.finalizers...))
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("adopt %s/%s: %w", m.GetNamespace(), m.GetName(), err)
	}
	return true, nil
}

// release ignores that the object is gone or was made again meanwhile, which
// the server reports as invalid because the UID differs.
func (o owner) release(m metav1.Object, patch func([]byte) error) error {
	err := patch(releasePatch(m.GetUID(), o.object.GetUID(), o.finalizers...))
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		return nil
	}
	return fmt.Errorf("release %s/%s: %w", m.GetNamespace(), m.GetName(), err)
}

// adoptPatch makes owner the controller of the object with this UID.
func adoptPatch(owner metav1.Object, kind schema.GroupVersionKind, uid types.UID, finalizers ...string) []byte {
	metadata := map[string]any{
		"uid":             uid,
		"ownerReferences": []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
	}
	if len(finalizers) > 0 {
		metadata["finalizers"] = finalizers
	}
	return marshal(metadata)
}

// releasePatch removes the reference to an owner, and finalizers, from the object with this UID.
func releasePatch(uid, owner types.UID, finalizers ...string) []byte {
	metadata := map[string]any{
		"uid":             uid,
		"ownerReferences": []map[string]string{{"$patch": "delete", "uid": string(owner)}},
	}
	if len(finalizers) > 0 {
		metadata["$deleteFromPrimitiveList/finalizers"] = finalizers
	}
	return marshal(metadata)
}

func marshal(metadata map[string]any) []byte {
	out, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		panic(err) // only strings and plain structs are in it
	}
	return out
}
