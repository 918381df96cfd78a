// Package replicationcontroller keeps the pods of ReplicationControllers with
// the ReplicaSets' engine: it only translates.
//
// Invariant: that of package replicaset. A ReplicationController's status has
// no count of terminating pods.
//
//	l := replicationcontroller.New(replicationcontroller.Inputs{...})
//	l.Run(ctx)
//
// Tests: server/controllers/replicaset/model_test.go
package replicationcontroller

import (
	"context"
	"log/slog"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
	"bramble.dev/server/controllers/pods"
	"bramble.dev/server/controllers/replicaset"
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client                 kubernetes.Interface
	Events                 record.EventRecorder
	ReplicationControllers *cache.Cache[corev1.ReplicationController]
	Pods                   *cache.Cache[corev1.Pod]
	Log                    *slog.Logger
}

// New makes the controller of ReplicationControllers.
func New(in Inputs) *loop.Loop {
	e := &replicaset.Engine[corev1.ReplicationController]{
		Sets: in.ReplicationControllers, Pods: in.Pods, Log: in.Log,
		Control: pods.Control{Client: in.Client, Events: in.Events},
		Kind: replicaset.Kind[corev1.ReplicationController]{
			GroupVersionKind: corev1.SchemeGroupVersion.WithKind("ReplicationController"),
			View:             view,
			NoTerminating:    true,
			Fresh: func(ctx context.Context, key loop.Key) (metav1.Object, error) {
				return in.Client.CoreV1().ReplicationControllers(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
			},
			Status: func(ctx context.Context, rc *corev1.ReplicationController, status appsv1.ReplicaSetStatus) (string, error) {
				rc = rc.DeepCopy()
				rc.Status = fromSet(status)
				written, err := in.Client.CoreV1().ReplicationControllers(rc.Namespace).UpdateStatus(ctx, rc, metav1.UpdateOptions{})
				if err != nil {
					return "", err
				}
				return written.ResourceVersion, nil
			},
		},
	}
	return e.Loop("replication-controller")
}

// view shows a ReplicationController as a ReplicaSet.
func view(rc *corev1.ReplicationController) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{
		ObjectMeta: rc.ObjectMeta,
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        rc.Spec.Replicas,
			MinReadySeconds: rc.Spec.MinReadySeconds,
			Selector:        &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
		},
		Status: appsv1.ReplicaSetStatus{
			Replicas:             rc.Status.Replicas,
			FullyLabeledReplicas: rc.Status.FullyLabeledReplicas,
			ReadyReplicas:        rc.Status.ReadyReplicas,
			AvailableReplicas:    rc.Status.AvailableReplicas,
			ObservedGeneration:   rc.Status.ObservedGeneration,
		},
	}
	if rc.Spec.Template != nil {
		rs.Spec.Template = *rc.Spec.Template
	}
	for _, c := range rc.Status.Conditions {
		rs.Status.Conditions = append(rs.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return rs
}

func fromSet(s appsv1.ReplicaSetStatus) corev1.ReplicationControllerStatus {
	out := corev1.ReplicationControllerStatus{
		Replicas:             s.Replicas,
		FullyLabeledReplicas: s.FullyLabeledReplicas,
		ReadyReplicas:        s.ReadyReplicas,
		AvailableReplicas:    s.AvailableReplicas,
		ObservedGeneration:   s.ObservedGeneration,
	}
	for _, c := range s.Conditions {
		out.Conditions = append(out.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return out
}
