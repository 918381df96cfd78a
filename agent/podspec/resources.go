package podspec

import (
	"encoding/json"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/component-helpers/resource"
)

// Allocation is what a node has given a pod. It differs from the pod's specification from the moment when somebody asks for
// another size until the node has agreed (KEP-1287).
type Allocation struct {
	Pod        *corev1.ResourceRequirements           `json:"pod,omitempty"`
	Containers map[string]corev1.ResourceRequirements `json:"containers,omitempty"`
}

// Allocate is what a pod's specification asks for.
func Allocate(pod *corev1.Pod) Allocation {
	a := Allocation{Pod: pod.Spec.Resources, Containers: map[string]corev1.ResourceRequirements{}}
	for c := range All(pod) {
		if c.Kind != Ephemeral {
			a.Containers[c.Name] = c.Resources
		}
	}
	return a
}

// IsZero says that nothing was given yet: every pod has a container.
func (a Allocation) IsZero() bool { return len(a.Containers) == 0 }

// Equal says whether two allocations are the same.
func (a Allocation) Equal(b Allocation) bool {
	if (a.Pod == nil) != (b.Pod == nil) || a.Pod != nil && !same(*a.Pod, *b.Pod) {
		return false
	}
	return maps.EqualFunc(a.Containers, b.Containers, same)
}

// Apply is the pod as it is with this allocation; the pod itself if it is so already.
func (a Allocation) Apply(pod *corev1.Pod) *corev1.Pod {
	if a.IsZero() || a.Equal(Allocate(pod)) {
		return pod
	}
	out := pod.DeepCopy()
	out.Spec.Resources = a.Pod
	for c := range All(out) {
		if r, ok := a.Containers[c.Name]; ok && c.Kind != Ephemeral {
			c.Resources = r
		}
	}
	return out
}

func same(a, b corev1.ResourceRequirements) bool {
	equal := func(a, b corev1.ResourceList) bool {
		return maps.EqualFunc(a, b, equalQuantity)
	}
	return equal(a.Requests, b.Requests) && equal(a.Limits, b.Limits)
}

func zero(list corev1.ResourceList, name corev1.ResourceName) bool {
	q := list[name]
	return q.IsZero()
}

func equalQuantity(a, b quantity.Quantity) bool { return a.Cmp(b) == 0 }

// Compute are the resources that can change while a container runs.
var Compute = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}

// Effective is what a container's cgroup is to have: a limit of the pod bounds a container that has none itself.
func Effective(pod *corev1.Pod, c *corev1.Container) corev1.ResourceRequirements {
	out := c.Resources
	if !resource.IsPodLevelResourcesSet(pod) {
		return out
	}
	out = *out.DeepCopy()
	for _, name := range Compute {
		if whole, ok := pod.Spec.Resources.Limits[name]; ok && zero(out.Limits, name) {
			if out.Limits == nil {
				out.Limits = corev1.ResourceList{}
			}
			out.Limits[name] = whole
		}
	}
	return out
}

// Changed names those of the resources that can change which differ.
func Changed(a, b corev1.ResourceRequirements) []corev1.ResourceName {
	var out []corev1.ResourceName
	for _, name := range Compute {
		if !equalQuantity(a.Requests[name], b.Requests[name]) || !equalQuantity(a.Limits[name], b.Limits[name]) {
			out = append(out, name)
		}
	}
	return out
}

// RestartsToResize says whether a container must be started anew to get another amount of these.
func RestartsToResize(c *corev1.Container, changed []corev1.ResourceName) bool {
	for _, p := range c.ResizePolicy {
		for _, name := range changed {
			if p.ResourceName == name && p.RestartPolicy == corev1.RestartContainer {
				return true
			}
		}
	}
	return false
}

// sized is a container in the message of an event.
type sized struct {
	Name      string                      `json:"name"`
	Resources corev1.ResourceRequirements `json:"resources,omitempty"`
}

// ResizeMessage is what events say of a resize: what happened, and what the pod is to have.
func ResizeMessage(what string, pod *corev1.Pod, generation int64, problem string) string {
	summary := struct {
		InitContainers []sized `json:"initContainers,omitempty"`
		Containers     []sized `json:"containers,omitempty"`
		Generation     int64   `json:"generation"`
		Error          string  `json:"error,omitempty"`
	}{Generation: generation, Error: problem}
	for c := range All(pod) {
		switch c.Kind {
		case App:
			summary.Containers = append(summary.Containers, sized{c.Name, c.Resources})
		case Init, Sidecar:
			summary.InitContainers = append(summary.InitContainers, sized{c.Name, c.Resources})
		}
	}
	b, err := json.Marshal(summary)
	if err != nil {
		return "Pod resize " + what
	}
	return fmt.Sprintf("Pod resize %s: %s", what, b)
}
