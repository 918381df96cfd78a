package garbage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
)

// client is for one object, in a version that is served now.
func (c *Controller) client(id identity) (metadata.ResourceInterface, error) {
	gvr, err := c.kinds.version(id.resource)
	if err != nil {
		return nil, err
	}
	if id.namespace == "" {
		return c.Metadata.Resource(gvr), nil
	}
	return c.Metadata.Resource(gvr).Namespace(id.namespace), nil
}

// errGone says that an object is not there any more, also where another has its name.
var errGone = errors.New("the object is gone")

func (c *Controller) get(ctx context.Context, id identity) (*metav1.PartialObjectMetadata, error) {
	client, err := c.client(id)
	if err != nil {
		return nil, err
	}
	m, err := client.Get(ctx, id.name, metav1.GetOptions{})
	if absent(err) || (err == nil && m.UID != id.uid) {
		return nil, errGone
	}
	return m, err
}

// absent says that an object is not there; that its path is not served is the same code, 404, and proves nothing.
func absent(err error) bool {
	return apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

// delete removes an object if it still is the one, and at the version, that was
// judged.
func (c *Controller) delete(ctx context.Context, id identity, version string, p metav1.DeletionPropagation) error {
	c.Log.Debug("delete what nobody owns any more", "object", describe(id), "uid", id.uid, "propagation", p)
	preconditions := &metav1.Preconditions{UID: &id.uid}
	if version != "" {
		preconditions.ResourceVersion = &version
	}
	client, err := c.client(id)
	if err != nil {
		return err
	}
	err = client.Delete(ctx, id.name, metav1.DeleteOptions{Preconditions: preconditions, PropagationPolicy: &p})
	if absent(err) {
		c.graph.remove(id.uid)
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", describe(id), err)
	}
	return nil
}

// change gives an object's references as they should be.
type change func([]metav1.OwnerReference) []metav1.OwnerReference

func without(uids []types.UID) change {
	return func(refs []metav1.OwnerReference) []metav1.OwnerReference {
		return slices.DeleteFunc(slices.Clone(refs), func(r metav1.OwnerReference) bool { return slices.Contains(uids, r.UID) })
	}
}

func unblocked(refs []metav1.OwnerReference) []metav1.OwnerReference {
	refs = slices.Clone(refs)
	for i := range refs {
		no := false
		refs[i].BlockOwnerDeletion = &no
	}
	return refs
}

// patchOwners and removeFinalizer name the version that they saw, so that the
// whole list can be replaced: a change by another makes them fail and be tried
// again.
func (c *Controller) patchOwners(ctx context.Context, id identity, latest *metav1.PartialObjectMetadata, to change) error {
	refs := to(latest.OwnerReferences)
	if len(refs) == len(latest.OwnerReferences) && slices.EqualFunc(refs, latest.OwnerReferences, func(a, b metav1.OwnerReference) bool {
		return a.UID == b.UID && blocks(a) == blocks(b)
	}) {
		return nil
	}
	return c.patch(ctx, id, latest.ResourceVersion, "ownerReferences", refs)
}

func (c *Controller) removeFinalizer(ctx context.Context, id identity, finalizer string) error {
	latest, err := c.get(ctx, id)
	if errors.Is(err, errGone) {
		c.graph.remove(id.uid)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", describe(id), err)
	}
	if !has(latest, finalizer) {
		return nil
	}
	left := slices.DeleteFunc(slices.Clone(latest.Finalizers), func(f string) bool { return f == finalizer })
	return c.patch(ctx, id, latest.ResourceVersion, "finalizers", left)
}

func (c *Controller) patch(ctx context.Context, id identity, version, field string, value any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": id.uid, "resourceVersion": version, field: value}})
	if err != nil {
		return err
	}
	client, err := c.client(id)
	if err != nil {
		return err
	}
	_, err = client.Patch(ctx, id.name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !absent(err) {
		return fmt.Errorf("patch %s of %s: %w", field, describe(id), err)
	}
	return nil
}
