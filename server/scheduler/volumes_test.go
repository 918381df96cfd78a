package scheduler

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storagehelpers "k8s.io/component-helpers/storage/volume"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"bramble.dev/link"
	"bramble.dev/server/cache/cachetest"
	"bramble.dev/server/controllers/pods"
)

func addClaim(t *testing.T, api *cachetest.API, name string, mode corev1.PersistentVolumeAccessMode, change func(*corev1.PersistentVolumeClaim)) {
	t.Helper()
	class := "local"
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: map[string]string{}}}
	c.Spec.StorageClassName, c.Spec.AccessModes = &class, []corev1.PersistentVolumeAccessMode{mode}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	if change != nil {
		change(c)
	}
	if _, err := api.Client().CoreV1().PersistentVolumeClaims("default").Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func claiming(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}}
	}
}

// The room of a pod is kept while its volume is made: two pods that come together must not have their volumes on one node, on which
// only one of them has room.
func TestKeepsRoomForWhomItsVolumeIsMade(t *testing.T) {
	api := start(t, node("a", 2, 8), node("b", 2, 8))
	delayed := storagev1.VolumeBindingWaitForFirstConsumer
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: link.LocalProvisioner, VolumeBindingMode: &delayed}
	if _, err := api.Client().StorageV1().StorageClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two"} {
		addClaim(t, api, name, corev1.ReadWriteOnce, nil)
		addPod(t, api, pod(name, "2", claiming(name)))
	}
	at := func(name string) string {
		c, err := api.Client().CoreV1().PersistentVolumeClaims("default").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return c.Annotations[storagehelpers.AnnSelectedNode]
	}
	eventually(t, "both claims have a node", func() bool { return at("one") != "" && at("two") != "" })
	if at("one") == at("two") {
		t.Errorf("both volumes are to be made on %s", at("one"))
	}
	// A pod of another kind finds no room either, and gets it when one of the first gives up.
	addPod(t, api, pod("third", "1"))
	eventually(t, "it waits", func() bool { return pods.Condition(get(t, api, "third"), corev1.PodScheduled) != nil })
	now := int64(0)
	if err := api.Client().CoreV1().Pods("default").Delete(t.Context(), "one", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is bound", func() bool { return get(t, api, "third").Spec.NodeName != "" })
}

// Of two pods that come together and have a claim which only one may have, one waits.
func TestReadWriteOncePod(t *testing.T) {
	api := start(t, node("a", 8, 8))
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}}
	if _, err := api.Client().CoreV1().PersistentVolumes().Create(t.Context(), pv, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	addClaim(t, api, "data", corev1.ReadWriteOncePod, func(c *corev1.PersistentVolumeClaim) {
		c.Spec.VolumeName, c.Status.Phase = "pv", corev1.ClaimBound
		c.Annotations[storagehelpers.AnnBindCompleted] = "yes"
	})
	names := []string{"p0", "p1", "p2", "p3"}
	for _, name := range names {
		addPod(t, api, pod(name, "1", claiming("data")))
	}
	// All of them may wait at first: the scheduler can hear of the pods before it hears of their claim.
	bound := 0
	eventually(t, "one has the claim, and the others wait", func() bool {
		waiting := 0
		bound = 0
		for _, name := range names {
			if p := get(t, api, name); p.Spec.NodeName != "" {
				bound++
			} else if pods.Condition(p, corev1.PodScheduled) != nil {
				waiting++
			}
		}
		return bound > 0 && bound+waiting == len(names)
	})
	if bound != 1 {
		t.Errorf("%d pods have the claim", bound)
	}
}
