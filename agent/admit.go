package agent

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"

	"bramble.dev/agent/podspec"
	"bramble.dev/agent/status"
)

// admit says why the node does not take a pod, in the kubelet's words, or nil. The scheduler has
// asked the same, but a pod may name its node itself, and two schedulers may each be right alone.
// Labels are not asked for: the server has compared them before it sent the pod.
func admit(pod *corev1.Pod, others []*corev1.Pod, allocatable corev1.ResourceList, ownPorts []int32) *status.Waiting {
	if why := ofAnotherSystem(pod); why != nil {
		return why
	}
	if why := forbidden(pod); why != nil {
		return why
	}
	if taken(pod, others, ownPorts) {
		return &status.Waiting{Reason: "NodePorts", Message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
	}
	return outOf(pod, others, allocatable)
}

// ofAnotherSystem refuses pods for Windows.
func ofAnotherSystem(pod *corev1.Pod) *status.Waiting {
	if os, labelled := pod.Labels[corev1.LabelOSStable]; labelled && os != string(corev1.Linux) {
		return &status.Waiting{Reason: "PodOSSelectorNodeLabelDoesNotMatch", Message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"}
	}
	if os := pod.Spec.OS; os != nil && os.Name != corev1.Linux {
		return &status.Waiting{Reason: "PodOSNotSupported", Message: "Failed to admit pod as the OS field doesn't match node OS"}
	}
	return nil
}

// safeSysctls are those that touch nobody but the pod; the kubelet allows no others by itself.
var safeSysctls = map[string]bool{
	"kernel.shm_rmid_forced": true, "net.ipv4.ip_local_port_range": true, "net.ipv4.tcp_syncookies": true, "net.ipv4.ping_group_range": true,
	"net.ipv4.ip_unprivileged_port_start": true, "net.ipv4.ip_local_reserved_ports": true, "net.ipv4.tcp_keepalive_time": true,
	"net.ipv4.tcp_fin_timeout": true, "net.ipv4.tcp_keepalive_intvl": true, "net.ipv4.tcp_keepalive_probes": true,
	"net.ipv4.tcp_rmem": true, "net.ipv4.tcp_wmem": true,
}

func forbidden(pod *corev1.Pod) *status.Waiting {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		name := strings.ReplaceAll(s.Name, "/", ".")
		net := strings.HasPrefix(name, "net.")
		switch {
		case net && pod.Spec.HostNetwork:
			return &status.Waiting{Reason: "SysctlForbidden", Message: fmt.Sprintf("forbidden sysctl: %q not allowed with host net enabled", s.Name)}
		case !net && pod.Spec.HostIPC:
			return &status.Waiting{Reason: "SysctlForbidden", Message: fmt.Sprintf("forbidden sysctl: %q not allowed with host ipc enabled", s.Name)}
		case !safeSysctls[name]:
			return &status.Waiting{Reason: "SysctlForbidden", Message: fmt.Sprintf("forbidden sysctl: %q not allowlisted", s.Name)}
		}
	}
	return nil
}

func outOf(pod *corev1.Pod, others []*corev1.Pod, allocatable corev1.ResourceList) *status.Waiting {
	if q, ok := allocatable[corev1.ResourcePods]; ok && int64(len(others))+1 > q.Value() {
		return short(corev1.ResourcePods, "OutOfpods", 1, int64(len(others)), q.Value())
	}
	want := resource.PodRequests(pod, resource.PodResourcesOptions{})
	// What a pod that is being resized had counts until its cgroups have changed.
	had := resource.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}
	for _, r := range []struct {
		name   corev1.ResourceName
		reason string
	}{{corev1.ResourceCPU, "OutOfcpu"}, {corev1.ResourceMemory, "OutOfmemory"}, {corev1.ResourceEphemeralStorage, "OutOfephemeral-storage"}} {
		value := func(l corev1.ResourceList) int64 {
			q := l[r.name]
			if r.name == corev1.ResourceCPU {
				return q.MilliValue()
			}
			return q.Value()
		}
		capacity, known := value(allocatable), allocatable[r.name]
		requested := value(want)
		if requested == 0 || known.IsZero() {
			continue
		}
		used := int64(0)
		for _, other := range others {
			used += value(resource.PodRequests(other, had))
		}
		if requested+used > capacity {
			return short(r.name, r.reason, requested, used, capacity)
		}
	}
	return nil
}

func short(name corev1.ResourceName, reason string, requested, used, capacity int64) *status.Waiting {
	return &status.Waiting{Reason: reason, Message: fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, requested, used, capacity)}
}

// taken says whether another pod, or the cluster itself, has a host port that this one wants.
func taken(pod *corev1.Pod, others []*corev1.Pod, ownPorts []int32) bool {
	want := hostPorts(pod)
	if slices.ContainsFunc(want, func(p corev1.ContainerPort) bool {
		return protocol(p) == "TCP" && slices.Contains(ownPorts, p.HostPort)
	}) {
		return true
	}
	for _, other := range others {
		for _, a := range hostPorts(other) {
			for _, b := range want {
				same := a.HostPort == b.HostPort && protocol(a) == protocol(b)
				if same && (anyIP(a.HostIP) || anyIP(b.HostIP) || a.HostIP == b.HostIP) {
					return true
				}
			}
		}
	}
	return false
}

// ownPorts are those on which the cluster's servers and brokers listen on this board, as far as it was told of them.
func (a *agent) ownPorts() []int32 {
	cluster := a.catalog.Cluster()
	if cluster == nil {
		return nil
	}
	own := ownAddresses()
	return cluster.OwnPorts(func(address string) bool { return own[address] })
}

func anyIP(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }

func protocol(p corev1.ContainerPort) string {
	if p.Protocol == "" {
		return "TCP"
	}
	return strings.ToUpper(string(p.Protocol))
}

func hostPorts(pod *corev1.Pod) []corev1.ContainerPort {
	var out []corev1.ContainerPort
	for c := range podspec.All(pod) {
		if c.Kind == podspec.Init {
			continue
		}
		for _, p := range c.Ports {
			if p.HostPort != 0 {
				out = append(out, p)
			}
		}
	}
	return out
}
