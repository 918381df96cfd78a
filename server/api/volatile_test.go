package api

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	"k8s.io/kubernetes/pkg/apis/coordination"
	api "k8s.io/kubernetes/pkg/apis/core"
)

func TestVolatileClass(t *testing.T) {
	at := func(s int64) *metav1.MicroTime { m := metav1.NewMicroTime(time.Unix(s, 0)); return &m }
	lease := func(renewed int64, holder string, change ...func(*coordination.Lease)) *coordination.Lease {
		l := &coordination.Lease{ObjectMeta: metav1.ObjectMeta{Name: "l", ResourceVersion: at(renewed).String()}, Spec: coordination.LeaseSpec{HolderIdentity: &holder, RenewTime: at(renewed)}}
		for _, f := range change {
			f(l)
		}
		return l
	}
	node := func(beat int64, ready api.ConditionStatus, cpu string) *api.Node {
		return &api.Node{Status: api.NodeStatus{NodeInfo: api.NodeSystemInfo{MachineID: cpu}, Conditions: []api.NodeCondition{{Type: api.NodeReady, Status: ready, LastHeartbeatTime: metav1.Unix(beat, 0)}}}}
	}
	scaler := func(max, current int32) *autoscaling.HorizontalPodAutoscaler {
		return &autoscaling.HorizontalPodAutoscaler{Spec: autoscaling.HorizontalPodAutoscalerSpec{MaxReplicas: max}, Status: autoscaling.HorizontalPodAutoscalerStatus{CurrentReplicas: current}}
	}
	leases := schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}
	nodes := schema.GroupResource{Resource: "nodes"}
	scalers := schema.GroupResource{Group: "autoscaling", Resource: "horizontalpodautoscalers"}
	tests := []struct {
		name     string
		gr       schema.GroupResource
		old, new runtime.Object
		want     bool
	}{
		{"a lease is renewed", leases, lease(1, "a"), lease(2, "a"), true},
		{"a lease is made", leases, nil, lease(1, "a"), false},
		{"a lease gets another holder", leases, lease(1, "a"), lease(2, "b"), false},
		{"a lease gets a label", leases, lease(1, "a"), lease(2, "a", func(l *coordination.Lease) { l.Labels = map[string]string{"a": "b"} }), false},
		{"a lease gets managed fields", leases, lease(1, "a"), lease(2, "a", func(l *coordination.Lease) { l.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m"}} }), true},
		{"a lease is let go", leases, lease(1, "a"), lease(2, "a", func(l *coordination.Lease) { l.Spec.AcquireTime = at(2) }), false},
		{"a node's heartbeat", nodes, node(1, api.ConditionTrue, "x"), node(2, api.ConditionTrue, "x"), true},
		{"a node becomes unready", nodes, node(1, api.ConditionTrue, "x"), node(2, api.ConditionFalse, "x"), false},
		{"a node becomes another", nodes, node(1, api.ConditionTrue, "x"), node(2, api.ConditionTrue, "y"), false},
		{"an autoscaler observes", scalers, scaler(3, 1), scaler(3, 2), true},
		{"an autoscaler is told", scalers, scaler(3, 1), scaler(4, 1), false},
		{"an event", schema.GroupResource{Resource: "events"}, nil, &api.Event{}, true},
		{"the same event by its other name", schema.GroupResource{Group: "events.k8s.io", Resource: "events"}, nil, &api.Event{}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := volatileOf(tt.gr)
			if f == nil {
				t.Fatal("no function")
			}
			var before runtime.Object
			if tt.old != nil {
				before = tt.old.DeepCopyObject()
			}
			if got := f(tt.old, tt.new); got != tt.want {
				t.Errorf("got %v", got)
			}
			if l, ok := tt.old.(*coordination.Lease); ok && !l.Spec.RenewTime.Equal(before.(*coordination.Lease).Spec.RenewTime) {
				t.Error("the object was changed")
			}
		})
	}
	if volatileOf(schema.GroupResource{Resource: "configmaps"}) != nil {
		t.Error("ConfigMaps are volatile")
	}
}
