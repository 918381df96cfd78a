package agent

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"bramble.dev/agent/status"
)

func asking(cpu string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	if cpu != "" {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func port(ip string, n int32, protocol corev1.Protocol) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostIP: ip, HostPort: n, ContainerPort: 80, Protocol: protocol}}
	}
}

func system(field corev1.OSName, label string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		if field != "" {
			p.Spec.OS = &corev1.PodOS{Name: field}
		}
		if label != "" {
			p.Labels = map[string]string{corev1.LabelOSStable: label}
		}
	}
}

func sysctl(name string, host bool) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.HostNetwork = host
		p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: name, Value: "1"}}}
	}
}

func TestAdmit(t *testing.T) {
	allocatable := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourcePods: resource.MustParse("3")}
	for _, c := range []struct {
		name   string
		pod    *corev1.Pod
		others []*corev1.Pod
		want   *status.Waiting
	}{
		{"fits", asking("1"), []*corev1.Pod{asking("1")}, nil},
		{"asks for nothing on a full node", asking(""), []*corev1.Pod{asking("2")}, nil},
		{"too much", asking("1500m"), []*corev1.Pod{asking("1")}, &status.Waiting{Reason: "OutOfcpu", Message: "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000"}},
		{"too many", asking(""), []*corev1.Pod{asking(""), asking(""), asking("")}, &status.Waiting{Reason: "OutOfpods", Message: "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3"}},
		{"port is taken", asking("", port("", 80, "TCP")), []*corev1.Pod{asking("", port("1.2.3.4", 80, ""))}, &status.Waiting{Reason: "NodePorts", Message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}},
		{"port of another address", asking("", port("1.2.3.5", 80, "TCP")), []*corev1.Pod{asking("", port("1.2.3.4", 80, "TCP"))}, nil},
		{"port of another protocol", asking("", port("", 80, "UDP")), []*corev1.Pod{asking("", port("", 80, "TCP"))}, nil},
		{"port of the cluster's server", asking("", port("", 6443, "TCP")), nil, &status.Waiting{Reason: "NodePorts", Message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}},
		{"its number of another protocol", asking("", port("", 6443, "UDP")), nil, nil},
		{"for Linux", asking("", system("linux", "linux")), nil, nil},
		{"for Windows", asking("", system("windows", "")), nil, &status.Waiting{Reason: "PodOSNotSupported", Message: "Failed to admit pod as the OS field doesn't match node OS"}},
		{"labelled for Windows", asking("", system("", "windows")), nil, &status.Waiting{Reason: "PodOSSelectorNodeLabelDoesNotMatch", Message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"}},
		{"safe sysctl", asking("", sysctl("kernel.shm_rmid_forced", false)), nil, nil},
		{"unsafe sysctl", asking("", sysctl("kernel.msgmax", false)), nil, &status.Waiting{Reason: "SysctlForbidden", Message: `forbidden sysctl: "kernel.msgmax" not allowlisted`}},
		{"sysctl of the host", asking("", sysctl("net.ipv4.tcp_syncookies", true)), nil, &status.Waiting{Reason: "SysctlForbidden", Message: `forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host net enabled`}},
	} {
		got := admit(c.pod, c.others, allocatable, []int32{6443})
		if (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}
