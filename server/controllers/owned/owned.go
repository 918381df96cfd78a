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

// Claim is what should be done about one object.
type Claim int

// What an owner may have to do about an object.
const (
	Ignore Claim = iota
	Keep
	Adopt
	Release
)

// Decide says what an owner does about an object.
func Decide(owner metav1.Object, selector labels.Selector, object metav1.Object) Claim {
	matches := selector.Matches(labels.Set(object.GetLabels()))
	deleting := owner.GetDeletionTimestamp() != nil
	ref := metav1.GetControllerOfNoCopy(object)
	switch {
	case ref != nil && ref.UID != owner.GetUID():
		return Ignore
	case ref != nil && matches:
		return Keep
	case ref != nil && !deleting:
		return Release
	case ref != nil || deleting || !matches || object.GetDeletionTimestamp() != nil:
		return Ignore
	case owner.GetNamespace() != "" && owner.GetNamespace() != object.GetNamespace():
		return Ignore
	}
	return Adopt
}

// Claims applies Decide to candidates.
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
	var out []*T
	var errs []error
	checked := false
	for _, object := range candidates {
		m := any(object).(metav1.Object)
		decision := Decide(c.Owner, c.Selector, m)
		if (decision == Adopt || decision == Keep) && c.Adoptable != nil && !c.Adoptable(object) {
			if decision == Adopt {
				continue
			}
			decision = Release
		}
		switch decision {
		case Keep:
			out = append(out, object)
		case Release:
			if err := c.release(ctx, object, m); err != nil {
				errs = append(errs, err)
			}
		case Adopt:
			if !checked {
				if err := c.mayAdopt(ctx); err != nil {
					return nil, err
				}
				checked = true
			}
			adopted, err := c.adopt(ctx, object, m)
			if err != nil {
				errs = append(errs, err)
			} else if adopted {
				out = append(out, object)
			}
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}

func (c Claims[T]) mayAdopt(ctx context.Context) error {
	fresh, err := c.Fresh(ctx)
	if err != nil {
		return fmt.Errorf("read %s %s before adopting: %w", c.Kind.Kind, c.Owner.GetName(), err)
	}
	if fresh.GetUID() != c.Owner.GetUID() {
		return fmt.Errorf("original %v %v/%v is gone: got uid %v, wanted %v", c.Kind.Kind, c.Owner.GetNamespace(), c.Owner.GetName(), fresh.GetUID(), c.Owner.GetUID())
	}
	if fresh.GetDeletionTimestamp() != nil {
		return fmt.Errorf("%v/%v has just been deleted at %v", c.Owner.GetNamespace(), c.Owner.GetName(), fresh.GetDeletionTimestamp())
	}
	return nil
}

func (c Claims[T]) adopt(ctx context.Context, object *T, m metav1.Object) (bool, error) {
	err := c.patch(ctx, object, AdoptPatch(c.Owner, c.Kind, m.GetUID(), c.Finalizers...))
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
func (c Claims[T]) release(ctx context.Context, object *T, m metav1.Object) error {
	err := c.patch(ctx, object, ReleasePatch(m.GetUID(), c.Owner.GetUID(), c.Finalizers...))
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		return nil
	}
	return fmt.Errorf("release %s/%s: %w", m.GetNamespace(), m.GetName(), err)
}

func (c Claims[T]) patch(ctx context.Context, object *T, patch []byte) error {
	patched, err := c.Patch(ctx, object, patch)
	return loop.Wrote(c.Writes, loop.Key{Namespace: c.Owner.GetNamespace(), Name: c.Owner.GetName()}, c.In, patched, err)
}

// AdoptPatch makes owner the controller of the object with this UID.
func AdoptPatch(owner metav1.Object, kind schema.GroupVersionKind, uid types.UID, finalizers ...string) []byte {
	metadata := map[string]any{
		"uid":             uid,
		"ownerReferences": []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
	}
	if len(finalizers) > 0 {
		metadata["finalizers"] = finalizers
	}
	return marshal(metadata)
}

// ReleasePatch removes the reference to an owner, and finalizers, from the object with this UID.
func ReleasePatch(uid, owner types.UID, finalizers ...string) []byte {
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
