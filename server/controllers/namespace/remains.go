package namespace

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	corev1 "k8s.io/api/core/v1"
)

// remains is what one attempt to empty a namespace left behind.
type remains struct {
	mu         sync.Mutex
	objects    map[schema.GroupVersionResource]int
	finalizers map[string]int
	failures   []error
	discovery  error
	parsing    error
}

func newRemains() *remains {
	return &remains{objects: map[schema.GroupVersionResource]int{}, finalizers: map[string]int{}}
}

func (r *remains) add(gvr schema.GroupVersionResource, stay []metav1.PartialObjectMetadata, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failures = append(r.failures, err)
	}
	if len(stay) > 0 {
		r.objects[gvr] = len(stay)
	}
	for _, object := range stay {
		for _, f := range object.Finalizers {
			r.finalizers[f]++
		}
	}
}

func (r *remains) any() bool { return len(r.objects) > 0 }

func (r *remains) err() error {
	return errors.Join(append(slices.Clone(r.failures), r.discovery, r.parsing)...)
}

// good is what each condition says when there is no trouble, in this order.
var good = []corev1.NamespaceCondition{
	{Type: corev1.NamespaceDeletionDiscoveryFailure, Reason: "ResourcesDiscovered", Message: "All resources successfully discovered"},
	{Type: corev1.NamespaceDeletionGVParsingFailure, Reason: "ParsedGroupVersions", Message: "All legacy kube types successfully parsed"},
	{Type: corev1.NamespaceDeletionContentFailure, Reason: "ContentDeleted", Message: "All content successfully deleted, may be waiting on finalization"},
	{Type: corev1.NamespaceContentRemaining, Reason: "ContentRemoved", Message: "All content successfully removed"},
	{Type: corev1.NamespaceFinalizersRemaining, Reason: "ContentHasNoFinalizers", Message: "All content-preserving finalizers finished"},
}

// trouble gives reason and message of a condition that is true.
func (r *remains) trouble(t corev1.NamespaceConditionType) (reason, message string, is bool) {
	switch t {
	case corev1.NamespaceDeletionDiscoveryFailure:
		var failed *discovery.ErrGroupDiscoveryFailed
		if errors.As(r.discovery, &failed) {
			return "DiscoveryFailed", fmt.Sprintf("Discovery failed for some groups, %d failing: %v", len(failed.Groups), r.discovery), true
		}
		if r.discovery != nil {
			return "DiscoveryFailed", r.discovery.Error(), true
		}
	case corev1.NamespaceDeletionGVParsingFailure:
		if r.parsing != nil {
			return "GroupVersionParsingFailed", r.parsing.Error(), true
		}
	case corev1.NamespaceDeletionContentFailure:
		if n := len(r.failures); n > 0 {
			return "ContentDeletionFailed", fmt.Sprintf("Failed to delete all resource types, %d remaining: %s", n, list(r.failures, error.Error)), true
		}
	case corev1.NamespaceContentRemaining:
		if len(r.objects) > 0 {
			return "SomeResourcesRemain", "Some resources are remaining: " + list(keys(r.objects), func(gvr schema.GroupVersionResource) string {
				return fmt.Sprintf("%s.%s has %d resource instances", gvr.Resource, gvr.Group, r.objects[gvr])
			}), true
		}
	case corev1.NamespaceFinalizersRemaining:
		if len(r.finalizers) > 0 {
			return "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: " + list(keys(r.finalizers), func(f string) string {
				return fmt.Sprintf("%s in %d resource instances", f, r.finalizers[f])
			}), true
		}
	}
	return "", "", false
}

func keys[K comparable](m map[K]int) []K {
	out := make([]K, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	return out
}

// list prints values in a stable order.
func list[T any](values []T, print func(T) string) string {
	out := make([]string, 0, len(values))
	for _, v := range values {
		out = append(out, print(v))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// conditions gives the namespace's conditions after this attempt.
func (r *remains) conditions(before []corev1.NamespaceCondition, now time.Time) (after []corev1.NamespaceCondition, changed bool) {
	after = slices.Clone(before)
	for _, c := range good {
		c.Status, c.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(now)
		if reason, message, is := r.trouble(c.Type); is {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, reason, message
		}
		at := slices.IndexFunc(after, func(o corev1.NamespaceCondition) bool { return o.Type == c.Type })
		if at < 0 {
			after = append(after, c)
			changed = true
			continue
		}
		old := after[at]
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		if old.Status != c.Status || old.Reason != c.Reason || old.Message != c.Message {
			changed = true
			after[at] = c
		}
	}
	return after, changed
}
