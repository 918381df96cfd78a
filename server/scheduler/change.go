package scheduler

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
	"bramble.dev/server/controllers/nodes"
)

// nodeMayHelp says whether a node's change may let a pod in that it refused. A
// heartbeat does not.
func nodeMayHelp(old, now *corev1.Node) bool {
	return old.Spec.Unschedulable && !now.Spec.Unschedulable ||
		!equality.Semantic.DeepEqual(old.Spec.Taints, now.Spec.Taints) ||
		!maps.Equal(old.Labels, now.Labels) ||
		old.Annotations[link.PlatformsAnnotation] != now.Annotations[link.PlatformsAnnotation] ||
		!equality.Semantic.DeepEqual(old.Status.Allocatable, now.Status.Allocatable) ||
		nodes.IsReady(old) != nodes.IsReady(now)
}

// podMayFit says whether a waiting pod's own change may let it in somewhere. A
// change of its status is the scheduler's own doing, but for the names of claims that were made for it.
func podMayFit(old, now *corev1.Pod) bool {
	return !maps.Equal(old.Labels, now.Labels) || !slices.Equal(old.Spec.SchedulingGates, now.Spec.SchedulingGates) ||
		!equality.Semantic.DeepEqual(old.Spec, now.Spec) || !equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, now.Status.ResourceClaimStatuses)
}
