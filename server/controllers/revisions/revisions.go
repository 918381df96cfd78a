// Package revisions keeps the templates that a DaemonSet or a StatefulSet has
// had, as ControllerRevisions: kubectl's rollout history and undo read them.
//
// Invariant: the newest revision of an owner is its present template, each
// template is there once, and nothing is written once that is so. Names and
// hashes are upstream's, so that what was made elsewhere is found again.
//
//	all, err := history.Claim(ctx, owner)
//	wanted, err := revisions.New(set, kind, &set.Spec.Template)
//	choice := revisions.Choose(all, wanted)
//	current, collisions, err := history.Establish(ctx, key, choice, wanted, hash, set.Status.CollisionCount)
package revisions

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// longestPrefix leaves room for a hash within the 253 bytes of a name.
const longestPrefix = 223

// New makes the revision of an owner's template; Named gives it its name.
func New(owner metav1.Object, kind schema.GroupVersionKind, template *corev1.PodTemplateSpec) (*appsv1.ControllerRevision, error) {
	data, err := patch(template)
	if err != nil {
		return nil, fmt.Errorf("encode the template of %s %s: %w", kind.Kind, owner.GetName(), err)
	}
	return &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       owner.GetNamespace(),
			Labels:          maps.Clone(template.Labels),
			Annotations:     maps.Clone(owner.GetAnnotations()),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
		},
		Data: runtime.RawExtension{Raw: data},
	}, nil
}

// patch is the strategic merge patch that puts a template back. Its bytes are
// the revision's identity, so they are made as upstream makes them.
func patch(template *corev1.PodTemplateSpec) ([]byte, error) {
	encoded, err := json.Marshal(template)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(encoded, &fields); err != nil {
		return nil, err
	}
	fields["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
}

// Template reads the template of a revision.
func Template(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var object struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &object); err != nil {
		return nil, fmt.Errorf("read ControllerRevision %s: %w", r.Name, err)
	}
	return &object.Spec.Template, nil
}

// Named gives a revision the name that follows from its owner's and a hash.
func Named(r *appsv1.ControllerRevision, owner, hash string) *appsv1.ControllerRevision {
	r = r.DeepCopy()
	r.Name = owner[:min(len(owner), longestPrefix)] + "-" + hash
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	r.Labels[appsv1.ControllerRevisionHashLabelKey] = hash
	return r
}

// DataHash is the hash of a revision's content, as StatefulSets use it.
func DataHash(r *appsv1.ControllerRevision, collisions int32) string {
	h := fnv.New32()
	_, _ = h.Write(r.Data.Raw)
	_, _ = h.Write([]byte(strconv.FormatInt(int64(collisions), 10)))
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

// Sort orders revisions from the oldest to the newest.
func Sort(all []*appsv1.ControllerRevision) {
	slices.SortStableFunc(all, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(
			cmp.Compare(a.Revision, b.Revision),
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			cmp.Compare(a.Name, b.Name),
		)
	})
}

// Choice is which revision stands for the present template.
type Choice struct {
	// Current is nil if there is none yet.
	Current *appsv1.ControllerRevision
	// Number is what the current one should be counted as.
	Number int64
	// Duplicates are others of the same content.
	Duplicates []*appsv1.ControllerRevision
}

// Choose finds the wanted template among the sorted revisions of an owner. An
// older one that is wanted again becomes the newest: that is a rollback.
func Choose(sorted []*appsv1.ControllerRevision, wanted *appsv1.ControllerRevision) Choice {
	c := Choice{Number: 1}
	if len(sorted) == 0 {
		return c
	}
	newest := sorted[len(sorted)-1]
	c.Number = newest.Revision + 1
	for _, r := range sorted {
		if bytes.Equal(r.Data.Raw, wanted.Data.Raw) {
			if c.Current != nil {
				c.Duplicates = append(c.Duplicates, c.Current)
			}
			c.Current = r
		}
	}
	if c.Current == nil && sameTemplate(newest, wanted) {
		c.Current = newest
	}
	if c.Current == newest {
		c.Number = newest.Revision
	}
	return c
}

// sameTemplate compares what was written by servers that encode otherwise: a
// restored cluster must not roll all its pods because of a null.
func sameTemplate(a, b *appsv1.ControllerRevision) bool {
	x, err := Template(a)
	if err != nil {
		return false
	}
	y, err := Template(b)
	return err == nil && equality.Semantic.DeepEqual(x, y)
}

// Oldest gives up to excess of the sorted revisions that nobody uses, the
// oldest first.
func Oldest(sorted []*appsv1.ControllerRevision, used func(*appsv1.ControllerRevision) bool, excess int) []*appsv1.ControllerRevision {
	var out []*appsv1.ControllerRevision
	for _, r := range sorted {
		if len(out) >= excess {
			break
		}
		if !used(r) {
			out = append(out, r)
		}
	}
	return out
}
