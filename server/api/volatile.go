package api

import (
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	"k8s.io/kubernetes/pkg/apis/coordination"
	api "k8s.io/kubernetes/pkg/apis/core"
)

// The volatile class: writes that the store may acknowledge from memory. They are what an idle cluster writes all day, and what
// is lost with them is made again within seconds by whoever wrote it.

// always: Events.
func always(_, _ runtime.Object) bool { return true }

// renewal: a Lease of which nothing but renewTime changes. A new holder is durable.
func renewal(old, new runtime.Object) bool {
	a, b, ok := both[coordination.Lease](old, new)
	if !ok {
		return false
	}
	a.Spec.RenewTime, b.Spec.RenewTime = nil, nil
	return same(&a, &b, &a.ObjectMeta, &b.ObjectMeta)
}

// autoscalerStatus: what a HorizontalPodAutoscaler observes; its spec is durable.
func autoscalerStatus(old, new runtime.Object) bool {
	a, b, ok := both[autoscaling.HorizontalPodAutoscaler](old, new)
	if !ok {
		return false
	}
	a.Status, b.Status = autoscaling.HorizontalPodAutoscalerStatus{}, autoscaling.HorizontalPodAutoscalerStatus{}
	return same(&a, &b, &a.ObjectMeta, &b.ObjectMeta)
}

// heartbeat: a Node that says it is still as it was.
func heartbeat(old, new runtime.Object) bool {
	a, b, ok := both[api.Node](old, new)
	if !ok {
		return false
	}
	a.Status.Conditions, b.Status.Conditions = withoutHeartbeats(a.Status.Conditions), withoutHeartbeats(b.Status.Conditions)
	return same(&a, &b, &a.ObjectMeta, &b.ObjectMeta)
}

func withoutHeartbeats(in []api.NodeCondition) []api.NodeCondition {
	out := make([]api.NodeCondition, len(in))
	copy(out, in)
	for i := range out {
		out[i].LastHeartbeatTime = metav1.Time{}
	}
	return out
}

// both gives shallow copies of the two states of an object; ok is false for a create.
func both[T any](old, new runtime.Object) (a, b T, ok bool) {
	o, isOld := any(old).(*T)
	n, isNew := any(new).(*T)
	if !isOld || !isNew || o == nil || n == nil {
		return a, b, false
	}
	return *o, *n, true
}

// same compares two objects apart from what every write changes.
func same(a, b any, am, bm *metav1.ObjectMeta) bool {
	for _, m := range []*metav1.ObjectMeta{am, bm} {
		m.ManagedFields, m.ResourceVersion, m.Generation = nil, "", 0
	}
	return apiequality.Semantic.DeepEqual(a, b)
}
