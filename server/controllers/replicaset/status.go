package replicaset

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/pods"
)

// status counts the pods. failure is what kept the last step from being done.
func status(rs *appsv1.ReplicaSet, active []*corev1.Pod, terminating int, failure error, now time.Time) appsv1.ReplicaSetStatus {
	out := *rs.Status.DeepCopy()
	out.ObservedGeneration = rs.Generation
	out.Replicas = int32(len(active))
	out.FullyLabeledReplicas, out.ReadyReplicas, out.AvailableReplicas = 0, 0, 0
	gone := int32(terminating)
	out.TerminatingReplicas = &gone
	full := labels.SelectorFromSet(rs.Spec.Template.Labels)
	for _, p := range active {
		if full.Matches(labels.Set(p.Labels)) {
			out.FullyLabeledReplicas++
		}
		if pods.IsReady(p) {
			out.ReadyReplicas++
		}
		if pods.IsAvailable(p, rs.Spec.MinReadySeconds, now) {
			out.AvailableReplicas++
		}
	}
	setFailure(&out, rs, len(active), failure, now)
	return out
}

func setFailure(out *appsv1.ReplicaSetStatus, rs *appsv1.ReplicaSet, active int, failure error, now time.Time) {
	at := slices.IndexFunc(out.Conditions, func(c appsv1.ReplicaSetCondition) bool {
		return c.Type == appsv1.ReplicaSetReplicaFailure
	})
	switch {
	case failure == nil && at >= 0:
		out.Conditions = slices.Delete(out.Conditions, at, at+1)
	case failure != nil && at < 0:
		reason := "FailedDelete"
		if active < int(*rs.Spec.Replicas) {
			reason = "FailedCreate"
		}
		out.Conditions = append(out.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue,
			LastTransitionTime: metav1.NewTime(now), Reason: reason, Message: failure.Error(),
		})
	}
}
