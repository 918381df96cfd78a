package revisions

import (
	"bytes"
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	appsv1 "k8s.io/api/apps/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
	"bramble.dev/server/controllers/owned"
)

// History reads and writes the revisions of owners.
type History struct {
	Client    kubernetes.Interface
	Revisions *cache.Cache[appsv1.ControllerRevision]
	Writes    *loop.Writes
}

// Owner is whose revisions they are.
type Owner struct {
	Object   metav1.Object
	Kind     schema.GroupVersionKind
	Selector labels.Selector
	Fresh    func(context.Context) (metav1.Object, error)
}

// Claim gives the owner's revisions, sorted; those that nobody owns are adopted.
func (h History) Claim(ctx context.Context, o Owner) ([]*appsv1.ControllerRevision, error) {
	all, err := owned.Claims[appsv1.ControllerRevision]{
		Owner: o.Object, Kind: o.Kind, Selector: o.Selector, Fresh: o.Fresh,
		Patch: func(ctx context.Context, r *appsv1.ControllerRevision, patch []byte) (*appsv1.ControllerRevision, error) {
			return h.Client.AppsV1().ControllerRevisions(r.Namespace).Patch(ctx, r.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		},
		In: h.Revisions, Writes: h.Writes,
	}.Claim(ctx)
	if err != nil {
		return nil, fmt.Errorf("claim ControllerRevisions: %w", err)
	}
	Sort(all)
	return all, nil
}

// Establish makes the chosen revision be there under its number. It returns it
// and how many names were taken by other templates.
func (h History) Establish(ctx context.Context, key loop.Key, c Choice, wanted *appsv1.ControllerRevision, hash func(collisions *int32) string, collisions *int32) (*appsv1.ControllerRevision, *int32, error) {
	switch {
	case c.Current == nil:
		return h.create(ctx, key, c.Number, wanted, hash, collisions)
	case c.Current.Revision == c.Number:
		return c.Current, collisions, nil
	}
	renumbered := c.Current.DeepCopy()
	renumbered.Revision = c.Number
	written, err := h.Client.AppsV1().ControllerRevisions(renumbered.Namespace).Update(ctx, renumbered, metav1.UpdateOptions{})
	if err != nil {
		return nil, collisions, fmt.Errorf("renumber ControllerRevision %s: %w", renumbered.Name, err)
	}
	h.Writes.Add(key, h.Revisions.Seen(written.ResourceVersion))
	return written, collisions, nil
}

// create counts a collision for each name that another template has, and tries
// the next. One of the same content is taken as it is: it was made by a step
// whose answer was lost, or it belongs to an owner of the same name that is
// being collected.
func (h History) create(ctx context.Context, key loop.Key, number int64, wanted *appsv1.ControllerRevision, hash func(*int32) string, collisions *int32) (*appsv1.ControllerRevision, *int32, error) {
	owner := metav1.GetControllerOfNoCopy(wanted).Name
	client := h.Client.AppsV1().ControllerRevisions(wanted.Namespace)
	for {
		r := Named(wanted, owner, hash(collisions))
		r.Revision = number
		created, err := client.Create(ctx, r, metav1.CreateOptions{})
		if err == nil {
			h.Writes.Add(key, h.Revisions.Seen(created.ResourceVersion))
			return created, collisions, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, collisions, fmt.Errorf("create ControllerRevision %s: %w", r.Name, err)
		}
		there, err := client.Get(ctx, r.Name, metav1.GetOptions{})
		if err != nil {
			return nil, collisions, fmt.Errorf("read ControllerRevision %s that is in the way: %w", r.Name, err)
		}
		if bytes.Equal(there.Data.Raw, r.Data.Raw) {
			h.Writes.Add(key, h.Revisions.Seen(there.ResourceVersion))
			return there, collisions, nil
		}
		next := int32(1)
		if collisions != nil {
			next += *collisions
		}
		collisions = &next
	}
}

// Delete removes revisions.
func (h History) Delete(ctx context.Context, key loop.Key, all []*appsv1.ControllerRevision) error {
	for _, r := range all {
		err := h.Client.AppsV1().ControllerRevisions(r.Namespace).Delete(ctx, r.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(r.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete ControllerRevision %s: %w", r.Name, err)
		}
		h.Writes.Add(key, h.Revisions.Until(r.Namespace, r.Name, func(now *appsv1.ControllerRevision) bool {
			return now == nil || now.UID != r.UID || now.DeletionTimestamp != nil
		}))
	}
	return nil
}
