package podspec

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Addresses are what a pod's own fields do not hold yet when its first container starts.
type Addresses struct {
	Pod, Host []string // primary first
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// Field is the value of a downward API field reference.
func Field(pod *corev1.Pod, ref *corev1.ObjectFieldSelector, a Addresses) (string, error) {
	if ref.APIVersion != "" && ref.APIVersion != "v1" {
		return "", fmt.Errorf("unsupported pod version: %s", ref.APIVersion)
	}
	if path, key, ok := subscript(ref.FieldPath); ok {
		return subscripted(pod, ref.FieldPath, path, key)
	}
	switch ref.FieldPath {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return formatMap(pod.Labels), nil
	case "metadata.annotations":
		return formatMap(pod.Annotations), nil
	case "spec.nodeName", "spec.host":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(a.Host), nil
	case "status.hostIPs":
		return strings.Join(a.Host, ","), nil
	case "status.podIP":
		return first(a.Pod), nil
	case "status.podIPs":
		return strings.Join(a.Pod, ","), nil
	case "spec.restartPolicy", "spec.schedulerName", "status.phase":
		return "", fmt.Errorf("unsupported fieldPath: %s", ref.FieldPath)
	}
	return "", fmt.Errorf("field label not supported: %s", ref.FieldPath)
}

func subscript(path string) (string, string, bool) {
	if !strings.HasSuffix(path, "']") {
		return path, "", false
	}
	base, key, ok := strings.Cut(strings.TrimSuffix(path, "']"), "['")
	return base, key, ok && base != ""
}

func subscripted(pod *corev1.Pod, whole, path, key string) (string, error) {
	from, check := pod.Labels, key
	switch path {
	case "metadata.labels":
	case "metadata.annotations":
		from, check = pod.Annotations, strings.ToLower(key)
	default:
		return "", fmt.Errorf("field label does not support subscript: %s", whole)
	}
	if errs := validation.IsQualifiedName(check); len(errs) != 0 {
		return "", fmt.Errorf("invalid key subscript in %s: %s", whole, strings.Join(errs, ";"))
	}
	return from[key], nil
}

func formatMap(m map[string]string) string {
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, k+"="+strconv.Quote(m[k]))
	}
	return strings.Join(lines, "\n")
}

// Resource is the value of a downward API resource reference. A container without a limit sees
// its pod's, or else what the node can give.
func Resource(pod *corev1.Pod, c *corev1.Container, ref *corev1.ResourceFieldSelector, allocatable corev1.ResourceList) (string, error) {
	if ref.ContainerName != "" {
		other, ok := Find(pod, ref.ContainerName)
		if !ok || other.Kind == Ephemeral {
			return "", fmt.Errorf("container %s not found", ref.ContainerName)
		}
		c = other.Container
	}
	kind, name, _ := strings.Cut(ref.Resource, ".")
	var list corev1.ResourceList
	switch kind {
	case "limits":
		list = c.Resources.Limits
	case "requests":
		list = c.Resources.Requests
	default:
		return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
	}
	resourceName := corev1.ResourceName(name)
	ordinary := resourceName == corev1.ResourceCPU || resourceName == corev1.ResourceMemory || resourceName == corev1.ResourceEphemeralStorage
	if !ordinary && !strings.HasPrefix(name, corev1.ResourceHugePagesPrefix) {
		return "", fmt.Errorf("unsupported container resource : %v", ref.Resource)
	}
	q := list[resourceName]
	if q.IsZero() && kind == "limits" && ordinary {
		q = bound(pod, resourceName, allocatable)
	}
	return divide(q, ref.Divisor, resourceName == corev1.ResourceCPU), nil
}

// bound is what holds a container without a limit of its own back: its pod's limit (KEP-2837), or else the node.
func bound(pod *corev1.Pod, name corev1.ResourceName, allocatable corev1.ResourceList) resource.Quantity {
	if of := pod.Spec.Resources; of != nil && name != corev1.ResourceEphemeralStorage {
		if limit := of.Limits[name]; !limit.IsZero() {
			return limit
		}
	}
	return allocatable[name]
}

// divide rounds up, as the kubelet does.
func divide(q, divisor resource.Quantity, milli bool) string {
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	a, b := q.Value(), divisor.Value()
	if milli {
		a, b = q.MilliValue(), divisor.MilliValue()
	}
	return strconv.FormatInt(int64(math.Ceil(float64(a)/float64(b))), 10)
}
