package ephemeral

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

// A pod's claim is made by its template and is the pod's; one of that name that is another's is left alone, and an event says so.
func TestAPodGetsItsOwnClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := cachetest.New()
		claims, pods := api.Client().CoreV1().PersistentVolumeClaims("default"), api.Client().CoreV1().Pods("default")
		taken := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "late-scratch"}}
		if _, err := claims.Create(t.Context(), taken, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		class := "local"
		for _, name := range []string{"web", "late"} {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{{
				Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
					ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"tier": "fast"}}, Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class},
				}}},
			}}}}
			if _, err := pods.Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		events := record.NewFakeRecorder(100)
		process := api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
			return New(Inputs{Client: client, Events: events, Pods: set.Pods(), Claims: set.PersistentVolumeClaims(), Log: slog.New(slog.DiscardHandler)})
		})
		defer process.Stop()
		claim := func(name string) *corev1.PersistentVolumeClaim {
			t.Helper()
			synctest.Wait()
			c, err := claims.Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		pod, err := pods.Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		first := claim("web-scratch")
		if !metav1.IsControlledBy(first, pod) || first.Labels["tier"] != "fast" || first.Spec.StorageClassName == nil || *first.Spec.StorageClassName != class {
			t.Errorf("the claim is not the pod's, or not by its template: %+v", first)
		}
		if c := claim("late-scratch"); len(c.OwnerReferences) != 0 {
			t.Errorf("another's claim was taken: %v", c.OwnerReferences)
		}
		select {
		case event := <-events.Events:
			if !strings.Contains(event, `FailedBinding ephemeral volume scratch: PVC default/late-scratch was not created for pod default/late (pod is not owner)`) {
				t.Errorf("event: %s", event)
			}
		default:
			t.Error("nothing says that the claim is another's")
		}
		if err := claims.Delete(t.Context(), "web-scratch", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if again := claim("web-scratch"); again.UID == first.UID {
			t.Error("a claim that was deleted under its pod is not made again")
		}
	})
}
