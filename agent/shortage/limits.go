package shortage

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"

	"bramble.dev/agent/podspec"
)

// limited says whether a pod has limits on the disk that somebody must watch: the kernel does not.
func limited(pod *corev1.Pod) bool {
	for _, v := range pod.Spec.Volumes {
		if OnDisk(v) && v.EmptyDir.SizeLimit != nil && v.EmptyDir.SizeLimit.Sign() > 0 {
			return true
		}
	}
	for c := range podspec.All(pod) {
		if _, ok := c.Resources.Limits[corev1.ResourceEphemeralStorage]; ok {
			return true
		}
	}
	return false
}

// OnDisk says whether a volume is an emptyDir on the disk. One in memory has its size from the kernel.
func OnDisk(v corev1.Volume) bool {
	return v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault
}

// exceeded says which of its own limits a pod has exceeded, in the kubelet's words; "": none.
func exceeded(u *Use, split bool) string {
	for _, v := range u.Pod.Spec.Volumes {
		if !OnDisk(v) || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() <= 0 {
			continue
		}
		if limit := v.EmptyDir.SizeLimit; u.Volumes[v.Name].Bytes > limit.Value() {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, limit.String())
		}
	}
	whole := Amount{}
	for _, c := range u.Containers {
		whole = whole.plus(c.Written).plus(c.Logs)
	}
	for _, v := range u.Volumes {
		whole = whole.plus(v)
	}
	if limit, ok := resource.PodLimits(u.Pod, resource.PodResourcesOptions{})[corev1.ResourceEphemeralStorage]; ok && whole.Bytes > limit.Value() {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
	}
	for _, c := range u.Containers {
		spec, ok := podspec.Find(u.Pod, c.Name)
		if !ok || spec.Kind != podspec.App && spec.Kind != podspec.Sidecar {
			continue
		}
		used := c.Logs.Bytes
		if !split {
			used += c.Written.Bytes
		}
		if limit := spec.Resources.Limits[corev1.ResourceEphemeralStorage]; limit.Sign() > 0 && used > limit.Value() {
			return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit.String())
		}
	}
	return ""
}
