package shortage

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"bramble.dev/agent/podspec"
)

// message is why a pod is evicted when a threshold is met, in the kubelet's words.
func message(t Threshold, l Level, u *Use) string {
	name := t.Signal.resource()
	var b strings.Builder
	fmt.Fprintf(&b, "The node was low on resource: %v. ", name)
	fmt.Fprintf(&b, "Threshold quantity: %v, available: %v. ", quantity(name, t.of(l.Capacity)), quantity(name, l.Available))
	if name == corev1.ResourceMemory && u.Counted && u.Pod.Spec.Resources != nil {
		if asked, ok := u.Pod.Spec.Resources.Requests[name]; ok {
			fmt.Fprintf(&b, "Pod %s was using %s, request is %s, has larger consumption of %v. ", u.Pod.Name, quantity(name, u.Memory), asked.String(), name)
		}
	}
	for _, c := range u.Containers {
		spec, ok := podspec.Find(u.Pod, c.Name)
		if !ok || spec.Kind == podspec.Ephemeral || name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage {
			continue
		}
		used := c.Memory
		if name == corev1.ResourceEphemeralStorage {
			used = c.Written.Bytes + c.Logs.Bytes
		}
		if asked := spec.Resources.Requests[name]; used > asked.Value() {
			fmt.Fprintf(&b, "Container %s was using %s, request is %s, has larger consumption of %v. ", c.Name, quantity(name, used), asked.String(), name)
		}
	}
	return b.String()
}

func quantity(name corev1.ResourceName, n int64) string {
	format := resource.BinarySI
	if name == inodes || name == pids {
		format = resource.DecimalSI
	}
	return resource.NewQuantity(n, format).String()
}
