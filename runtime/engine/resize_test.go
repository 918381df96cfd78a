package engine

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"bramble.dev/runtime/testimage"
)

func amount(cpu, memory string) corev1.ResourceRequirements {
	list := func() corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	return corev1.ResourceRequirements{Requests: list(), Limits: list()}
}

// TestResize gives a running container more and less, as an agent does and as the next one finds it.
func TestResize(t *testing.T) {
	c := config(t)
	e := openEngine(t, c)
	importImage(t, e, testImage, testimage.Options{})
	pod := testPod("sized", sh("head -c 3000000 /dev/zero | tail -c 3000000 > /dev/shm/x; sleep 1000"))
	pod.Spec.Containers[0].Resources = amount("100m", "64Mi")
	s := runSandbox(t, e, pod)
	one := start(t, e, s, pod, 0)
	p, err := e.pod(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	limits := func() string {
		files := "/sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/memory/memory.limit_in_bytes"
		if e.cgroup.Unified() {
			files = "/sys/fs/cgroup/cpu.max /sys/fs/cgroup/memory.max"
		}
		return strings.Join(strings.Fields(execOut(t, e, one.ID, "cat "+files)), " ")
	}
	for _, want := range []struct{ cpu, memory, quota, bytes string }{{"300m", "128Mi", "30000", "134217728"}, {"50m", "32Mi", "5000", "33554432"}} {
		to := amount(want.cpu, want.memory)
		pod.Spec.Containers[0].Resources = to
		if err := e.Resize(t.Context(), s.ID, pod, map[string]corev1.ResourceRequirements{one.ID: to}); err != nil {
			t.Fatal(err)
		}
		if got := limits(); !strings.HasPrefix(got, want.quota) || !strings.HasSuffix(got, want.bytes) {
			t.Errorf("the container has %s", got)
		}
		if got := e.cgroup.Limits(p.rec.Cgroup); got.CPUQuota != to.Limits.Cpu().MilliValue()*100 || got.Memory != to.Limits.Memory().Value() {
			t.Errorf("the pod has %+v", got)
		}
	}
	small := amount("50m", "64Ki")
	err = e.Resize(t.Context(), s.ID, pod, map[string]corev1.ResourceRequirements{one.ID: small})
	if err == nil || !strings.Contains(err.Error(), `cannot decrease memory limits: attempting to set container "c0" memory limit (65536) below current usage (`) {
		t.Errorf("below what is used: %v", err)
	}

	e.Close()
	e = openEngine(t, c)
	list, err := e.List(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	for _, got := range []*corev1.ResourceRequirements{list[0].Resources, list[0].Containers[0].Resources} {
		if got == nil || got.Limits.Memory().String() != "32Mi" || got.Limits.Cpu().String() != "50m" || got.Requests.Cpu().String() != "50m" {
			t.Errorf("the next one finds %+v", got)
		}
	}
}
