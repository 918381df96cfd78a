package storage

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Pods that name their node themselves get a claim for one pod one after the other, also over a restart of the agent.
func TestClaimForOnePod(t *testing.T) {
	c := &cluster{}
	v := open(t, c)
	first := claimed(c, "pvc-1", "/data")
	c.claims["c"].Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	second := first.DeepCopy()
	second.UID = "uid-2"
	if _, err := v.Mount(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	again, err := Open(v.dir, v.local, c, v.log)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := again.Mount(t.Context(), second); err == nil || !strings.Contains(err.Error(), "already in use by another pod") {
			t.Errorf("a second pod has it too: %v", err)
		}
		if _, err := again.Mount(t.Context(), first); err != nil {
			t.Errorf("the first pod lost it: %v", err)
		}
	}
	if err := again.Unmount(t.Context(), first.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Mount(t.Context(), second); err != nil {
		t.Errorf("the second pod doesn't get it when the first is gone: %v", err)
	}
	if err := again.Unmount(t.Context(), second.UID); err != nil {
		t.Fatal(err)
	}
}

// No pod begins on a claim that nothing protects from its deletion; one that is protected is there until the pods are gone.
func TestClaimThatIsBeingDeleted(t *testing.T) {
	c := &cluster{}
	v := open(t, c)
	pod := claimed(c, "pvc-1", "/data")
	c.claims["c"].DeletionTimestamp = &metav1.Time{Time: time.Now()}
	c.claims["c"].Finalizers = []string{"example.com/slow"}
	if _, err := v.Mount(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "PVC is being deleted") {
		t.Errorf("mounted: %v", err)
	}
	c.claims["c"].Finalizers = append(c.claims["c"].Finalizers, protection)
	if _, err := v.Mount(t.Context(), pod); err != nil {
		t.Error(err)
	}
	if err := v.Unmount(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
}
