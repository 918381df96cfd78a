// Package podspec answers questions about a pod's specification: which containers it has and of
// which kind, when they restart, what environment, hosts file and resolver they see.
//
// Invariant: everything here is a pure function of the objects given to it; nothing reads the
// node or keeps state. The answers are the kubelet's, error texts included, because people and
// tests compare them.
//
//	for c := range podspec.All(pod) {
//		if c.Kind == podspec.Sidecar { ... }
//	}
package podspec

import (
	"fmt"
	"hash/fnv"
	"iter"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Kind is the role of a container in its pod.
type Kind int

// The kinds of containers. A sidecar is an init container that is restarted always. A volume is none, but has an image.
const (
	App Kind = iota
	Init
	Sidecar
	Ephemeral
	Volume
)

// Container is a container of a pod with its kind.
type Container struct {
	*corev1.Container
	Kind Kind
	// Target names the container whose processes an ephemeral container sees.
	Target string
}

// All yields init containers and sidecars in their order, then app containers, then ephemeral ones.
func All(pod *corev1.Pod) iter.Seq[Container] {
	return func(yield func(Container) bool) {
		for i := range pod.Spec.InitContainers {
			c := &pod.Spec.InitContainers[i]
			if !yield(Container{Container: c, Kind: initKind(c)}) {
				return
			}
		}
		for i := range pod.Spec.Containers {
			if !yield(Container{Container: &pod.Spec.Containers[i], Kind: App}) {
				return
			}
		}
		for i := range pod.Spec.EphemeralContainers {
			if !yield(fromEphemeral(&pod.Spec.EphemeralContainers[i])) {
				return
			}
		}
	}
}

func fromEphemeral(e *corev1.EphemeralContainer) Container {
	return Container{Container: (*corev1.Container)(&e.EphemeralContainerCommon), Kind: Ephemeral, Target: e.TargetContainerName}
}

func initKind(c *corev1.Container) Kind {
	if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
		return Sidecar
	}
	return Init
}

// Find returns the container of that name.
func Find(pod *corev1.Pod, name string) (Container, bool) {
	for c := range All(pod) {
		if c.Name == name {
			return c, true
		}
	}
	return Container{}, false
}

// Full names a pod as the kubelet's messages do: name_namespace(uid).
func Full(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

// ShouldRestart says whether a container that ended with this code is started again.
func ShouldRestart(spec *corev1.PodSpec, c *corev1.Container, code int32) bool {
	if c.RestartPolicy != nil {
		if rule, ok := matchingRule(c, code); ok {
			switch rule.Action {
			case corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers:
				return true
			}
		}
		switch *c.RestartPolicy {
		case corev1.ContainerRestartPolicyAlways:
			return true
		case corev1.ContainerRestartPolicyOnFailure:
			return code != 0
		case corev1.ContainerRestartPolicyNever:
			return false
		}
	}
	switch spec.RestartPolicy {
	case corev1.RestartPolicyOnFailure:
		return code != 0
	case corev1.RestartPolicyNever:
		return false
	}
	return true
}

// RestartingAll is the reason of a container's end that was taken away to be started anew with all others of its pod.
const RestartingAll = "RestartingAllContainers"

// RestartsAll says whether the end of a container with this code starts its whole pod anew, in its place (KEP-5532).
func RestartsAll(c *corev1.Container, code int32) bool {
	rule, ok := matchingRule(c, code)
	return ok && rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers
}

// CouldRestartAll says whether any container of the pod has a rule that starts the whole pod anew.
func CouldRestartAll(pod *corev1.Pod) bool {
	for c := range All(pod) {
		for _, rule := range c.RestartPolicyRules {
			if rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
				return true
			}
		}
	}
	return false
}

// matchingRule returns the first restart rule of the container that the exit code matches.
func matchingRule(c *corev1.Container, code int32) (corev1.ContainerRestartRule, bool) {
	for _, rule := range c.RestartPolicyRules {
		if rule.ExitCodes == nil {
			continue
		}
		in := false
		for _, v := range rule.ExitCodes.Values {
			in = in || v == code
		}
		switch rule.ExitCodes.Operator {
		case corev1.ContainerRestartRuleOnExitCodesOpIn:
			if in {
				return rule, true
			}
		case corev1.ContainerRestartRuleOnExitCodesOpNotIn:
			if !in {
				return rule, true
			}
		}
	}
	return corev1.ContainerRestartRule{}, false
}

// RestartsWhileRunning says whether a container that must be killed while it runs (a probe failed)
// is started again: then there is no exit code that a rule could match.
func RestartsWhileRunning(spec *corev1.PodSpec, c *corev1.Container) bool {
	if c.RestartPolicy != nil {
		return *c.RestartPolicy != corev1.ContainerRestartPolicyNever
	}
	return spec.RestartPolicy != corev1.RestartPolicyNever
}

// Hash changes when a running container must be replaced. Only the image may change in place.
func Hash(c *corev1.Container) string {
	h := fnv.New64a()
	h.Write([]byte(c.Name))
	h.Write([]byte{0})
	h.Write([]byte(c.Image))
	return fmt.Sprintf("%016x", h.Sum64())
}

// Trial changes when what kept a container from running may be over: another image, other resources.
func Trial(c *corev1.Container) string {
	h := fnv.New64a()
	h.Write([]byte(Hash(c)))
	h.Write([]byte(c.Resources.String()))
	return fmt.Sprintf("%016x", h.Sum64())
}

// QOS is the pod's class, as the API computed it when the pod was made. What the server sends of a pod is without it.
func QOS(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	guaranteed, any := true, false
	look := func(r corev1.ResourceRequirements) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, asked := r.Requests[name]
			limit := r.Limits[name]
			any = any || !request.IsZero() || !limit.IsZero()
			if limit.IsZero() || asked && request.Cmp(limit) != 0 { // what is not asked for is the limit, by default
				guaranteed = false
			}
		}
	}
	if r := pod.Spec.Resources; r != nil && (len(r.Requests) > 0 || len(r.Limits) > 0) {
		look(*r)
	} else {
		for c := range All(pod) {
			if c.Kind != Ephemeral {
				look(c.Resources)
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// Priority is the pod's; 0 if none was given.
func Priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

// ImageRef is the reference with the default tag that an image without tag and digest has.
func ImageRef(image string) string {
	if strings.Contains(image, "@") {
		return image
	}
	last := image[strings.LastIndex(image, "/")+1:]
	if strings.Contains(last, ":") {
		return image
	}
	return image + ":latest"
}
