package scheduler

import (
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"

	"bramble.dev/server/controllers/pods"
)

// TestClaimsOfDevices: a pod is never bound without the devices that it asks for, and hears what is missing as that changes.
func TestClaimsOfDevices(t *testing.T) {
	api := start(t, node("a", 4, 8))
	client := api.Client().ResourceV1()
	says := func(name, why string) {
		t.Helper()
		want := "0/1 nodes are available: " + why + ". preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
		eventually(t, name+" hears "+why, func() bool {
			c := pods.Condition(get(t, api, name), corev1.PodScheduled)
			return c != nil && c.Status == corev1.ConditionFalse && c.Message == want
		})
		if n := get(t, api, name).Spec.NodeName; n != "" {
			t.Fatalf("%s is bound to %s", name, n)
		}
	}
	made := pod("made", "1")
	template := "camera"
	made.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "camera", ResourceClaimTemplateName: &template}}
	addPod(t, api, made)
	says("made", `pod "default/made": ResourceClaim not created yet`)

	shared := pod("shared", "1")
	name := "camera"
	shared.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "camera", ResourceClaimName: &name}}
	addPod(t, api, shared)
	says("shared", `could not find ResourceClaim "default/camera"`)

	claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := client.ResourceClaims("default").Create(t.Context(), claim, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	says("shared", "1 cannot allocate all claims")

	// The claim of another pod is not what was made for this one.
	p := get(t, api, "made")
	p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "camera", ResourceClaimName: &name}}
	if _, err := api.Client().CoreV1().Pods("default").UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
		t.Fatal(err)
	}
	says("made", "ResourceClaim default/camera was not created for Pod default/made (Pod is not owner)")
}
