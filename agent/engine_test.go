package agent

import (
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"bramble.dev/agent/seam"
	"bramble.dev/runtime/container"
	"bramble.dev/runtime/image"
)

// TestChoosy: images that every board runs are not told, or a node with fifty of them would tell of all.
func TestChoosy(t *testing.T) {
	of := func(list ...string) (out []image.Platform) {
		for _, s := range list {
			p := append(strings.Split(s, "/"), "")
			out = append(out, image.Platform{OS: p[0], Architecture: p[1], Variant: p[2]})
		}
		return out
	}
	got := choosy(map[string][]image.Platform{
		"docker.io/library/all:1":  of("linux/amd64", "linux/arm64", "linux/arm/v7", "linux/s390x"),
		"docker.io/library/most:1": of("linux/amd64", "linux/arm64"),
		"docker.io/team/pc:1":      of("linux/amd64"),
	})
	want := map[string][]string{"docker.io/library/most:1": {"linux/amd64", "linux/arm64"}, "docker.io/team/pc:1": {"linux/amd64"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
	if got := choosy(nil); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func TestToUser(t *testing.T) {
	if toUser(nil) != nil {
		t.Error("a user was made up")
	}
	want := &corev1.LinuxContainerUser{UID: 1000, GID: 1001, SupplementalGroups: []int64{44, 1001}}
	if got := toUser(&container.User{UID: 1000, GID: 1001, Groups: []uint32{44, 1001}}); !reflect.DeepEqual(got, want) {
		t.Errorf("told %+v", got)
	}
}

// The class of a pod is the agent's to tell: without it the kernel would kill a guaranteed pod as any other.
func TestToContainerSpecHasTheClass(t *testing.T) {
	full := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi")}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Limits: full}}}}}
	if got := toContainerSpec(seam.ContainerSpec{Pod: pod, Container: &pod.Spec.Containers[0]}).QOS; got != corev1.PodQOSGuaranteed {
		t.Errorf("told %q", got)
	}
}
