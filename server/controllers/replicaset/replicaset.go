package replicaset

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
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client      kubernetes.Interface
	Events      record.EventRecorder
	ReplicaSets *cache.Cache[appsv1.ReplicaSet]
	Pods        *cache.Cache[corev1.Pod]
	Log         *slog.Logger
}

// New makes the controller of ReplicaSets.
func New(in Inputs) *loop.Loop {
	e := &Engine[appsv1.ReplicaSet]{
		Sets: in.ReplicaSets, Pods: in.Pods, Log: in.Log,
		Control: pods.Control{Client: in.Client, Events: in.Events},
		Kind: Kind[appsv1.ReplicaSet]{
			GroupVersionKind: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
			View:             func(rs *appsv1.ReplicaSet) *appsv1.ReplicaSet { return rs },
			Fresh: func(ctx context.Context, key loop.Key) (metav1.Object, error) {
				return in.Client.AppsV1().ReplicaSets(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
			},
			Status: func(ctx context.Context, rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) (string, error) {
				rs = rs.DeepCopy()
				rs.Status = status
				written, err := in.Client.AppsV1().ReplicaSets(rs.Namespace).UpdateStatus(ctx, rs, metav1.UpdateOptions{})
				if err != nil {
					return "", err
				}
				return written.ResourceVersion, nil
			},
		},
	}
	return e.Loop("replicaset-controller")
}
