// Package pods holds what the controllers that run pods share: what counts as
// active, ready and available, how a pod is made from a template, which pods
// go first when there are too many, and the writes with their events.
//
// Invariant: all functions are pure but those that write, which are in control.go.
//
//	active := pods.Filter(all, pods.IsActive)
//	pod := pods.FromTemplate(&set.Spec.Template, set.Name, ref)
package pods

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/dump"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation"

	corev1 "k8s.io/api/core/v1"
)

// IsFinished says that no container of the pod will run again.
func IsFinished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// IsActive says that the pod counts as a replica: it is neither finished nor asked to go.
func IsActive(p *corev1.Pod) bool { return !IsFinished(p) && p.DeletionTimestamp == nil }

// IsTerminating says that the pod was asked to go and still runs.
func IsTerminating(p *corev1.Pod) bool { return !IsFinished(p) && p.DeletionTimestamp != nil }

// Condition returns the condition of a type, or nil.
func Condition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// IsReady says that the pod may serve.
func IsReady(p *corev1.Pod) bool {
	c := Condition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// IsAvailable says that the pod has been ready for minReadySeconds.
func IsAvailable(p *corev1.Pod, minReadySeconds int32, now time.Time) bool {
	if !IsReady(p) {
		return false
	}
	since := Condition(p, corev1.PodReady).LastTransitionTime
	return minReadySeconds == 0 || (!since.IsZero() && since.Add(seconds(minReadySeconds)).Before(now))
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

// NextAvailable is how long it takes until the next ready pod becomes available;
// zero if none will by the passing of time alone.
func NextAvailable(all []*corev1.Pod, minReadySeconds int32, now time.Time) time.Duration {
	var next time.Duration
	for _, p := range all {
		if minReadySeconds <= 0 || !IsReady(p) || IsAvailable(p, minReadySeconds, now) {
			continue
		}
		since := Condition(p, corev1.PodReady).LastTransitionTime
		if since.IsZero() {
			continue
		}
		// The condition is strict, so look a moment after the second is over.
		in := max(since.Add(seconds(minReadySeconds)).Sub(now), 0) + 10*time.Millisecond
		if next == 0 || in < next {
			next = in
		}
	}
	return next
}

// Filter returns the pods for which keep is true.
func Filter(all []*corev1.Pod, keep func(*corev1.Pod) bool) []*corev1.Pod {
	var out []*corev1.Pod
	for _, p := range all {
		if keep(p) {
			out = append(out, p)
		}
	}
	return out
}

// FromTemplate makes a pod of a template; its name is generated from the owner's.
func FromTemplate(template *corev1.PodTemplateSpec, owner string, ref *metav1.OwnerReference) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Labels:       maps.Clone(template.Labels),
			Annotations:  maps.Clone(template.Annotations),
			Finalizers:   slices.Clone(template.Finalizers),
			GenerateName: prefix(owner),
		},
		Spec: *template.Spec.DeepCopy(),
	}
	if ref != nil {
		p.OwnerReferences = []metav1.OwnerReference{*ref}
	}
	return p
}

// prefix puts a dash behind the owner's name unless that makes it too long.
func prefix(owner string) string {
	if len(owner)+1 > validation.DNS1123SubdomainMaxLength {
		return owner
	}
	return owner + "-"
}

// TemplateHash names a template. It is upstream's own hash, so that objects
// which were made elsewhere keep their names.
func TemplateHash(template *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(dump.ForHash(*template)))
	if collisions != nil {
		n := uint32(*collisions)
		_, _ = h.Write([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24), 0, 0, 0, 0})
	}
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

// SetCondition replaces the condition of its type; the time of transition stays
// while the status does. The condition is of the pod as it is given (KEP-5067).
func SetCondition(p *corev1.Pod, c corev1.PodCondition) {
	c.ObservedGeneration = p.Generation
	if now := Condition(p, c.Type); now != nil {
		if now.Status == c.Status {
			c.LastTransitionTime = now.LastTransitionTime
		}
		*now = c
		return
	}
	p.Status.Conditions = append(p.Status.Conditions, c)
}
