package dispatch

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Trimming leaves out what a node does not read. What the node itself reports is left out as well:
// otherwise every report would come back as a change. The functions copy what they change; the
// objects belong to the caches.

func trimMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	m.ManagedFields = nil
	m.ResourceVersion = ""
	m.Generation = 0
	m.SelfLink = ""
	if _, ok := m.Annotations[corev1.LastAppliedConfigAnnotation]; ok {
		m.Annotations = maps.Clone(m.Annotations)
		delete(m.Annotations, corev1.LastAppliedConfigAnnotation)
	}
	return m
}

func trimPod(in *corev1.Pod) *corev1.Pod {
	out := &corev1.Pod{ObjectMeta: trimMeta(in.ObjectMeta), Spec: in.Spec}
	out.Generation = in.Generation
	if ended(in.Status.Phase) {
		// A node that lost its memory must not run it again.
		out.Status.Phase = in.Status.Phase
	}
	// What others decide about the pod's readiness.
	for _, c := range in.Status.Conditions {
		if slices.ContainsFunc(in.Spec.ReadinessGates, func(g corev1.PodReadinessGate) bool { return g.ConditionType == c.Type }) {
			out.Status.Conditions = append(out.Status.Conditions, corev1.PodCondition{Type: c.Type, Status: c.Status})
		}
	}
	return out
}

func trimNode(in *corev1.Node) *corev1.Node {
	out := &corev1.Node{ObjectMeta: trimMeta(in.ObjectMeta), Spec: in.Spec}
	out.Annotations = nil
	return out
}

func trimConfigMap(in *corev1.ConfigMap) *corev1.ConfigMap {
	out := *in
	out.ObjectMeta = trimMeta(in.ObjectMeta)
	return &out
}

func trimSecret(in *corev1.Secret) *corev1.Secret {
	out := *in
	out.ObjectMeta = trimMeta(in.ObjectMeta)
	return &out
}

func trimClaim(in *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
	out := *in
	out.ObjectMeta = trimMeta(in.ObjectMeta)
	out.Status = corev1.PersistentVolumeClaimStatus{Phase: in.Status.Phase, AccessModes: in.Status.AccessModes, Capacity: in.Status.Capacity}
	return &out
}

func trimVolume(in *corev1.PersistentVolume) *corev1.PersistentVolume {
	out := *in
	out.ObjectMeta = trimMeta(in.ObjectMeta)
	out.Status = corev1.PersistentVolumeStatus{Phase: in.Status.Phase}
	return &out
}

func trimService(in *corev1.Service) *corev1.Service {
	out := *in
	out.ObjectMeta = trimMeta(in.ObjectMeta)
	out.OwnerReferences = nil
	out.Status.Conditions = nil
	return &out
}

func trimEndpointSlice(in *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	out := *in
	out.ObjectMeta = trimMeta(in.ObjectMeta)
	out.OwnerReferences = nil
	out.Annotations = nil
	out.Endpoints = slices.Clone(in.Endpoints)
	for i := range out.Endpoints {
		out.Endpoints[i].TargetRef = nil
	}
	return &out
}
