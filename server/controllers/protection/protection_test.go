package protection

import (
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

// A claim that pods use stays until the last of them is gone; one without a node does not count, because no node starts it any more.
func TestAClaimStaysWhileAPodUsesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := cachetest.New()
		claims, pods := api.Client().CoreV1().PersistentVolumeClaims("default"), api.Client().CoreV1().Pods("default")
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data", Finalizers: []string{"example.com/mine"}}}
		made(t)(claims.Create(t.Context(), claim, metav1.CreateOptions{}))
		for name, node := range map[string]string{"runs": "pi1", "waits": ""} {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{NodeName: node, Volumes: []corev1.Volume{{
				Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}},
			}}}}
			made(t)(pods.Create(t.Context(), pod, metav1.CreateOptions{}))
		}
		defer api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
			return NewClaims(ClaimInputs{Client: client, Claims: set.PersistentVolumeClaims(), Pods: set.Pods(), Log: slog.New(slog.DiscardHandler)})
		}).Stop()
		check := func(when string, want ...string) {
			t.Helper()
			synctest.Wait()
			c, err := claims.Get(t.Context(), "data", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			same(t, when, c.Finalizers, want)
		}
		check("when it is new", "example.com/mine", claimFinalizer)
		if err := claims.Delete(t.Context(), "data", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		check("while a pod uses it", "example.com/mine", claimFinalizer)
		now := int64(0)
		if err := pods.Delete(t.Context(), "runs", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
			t.Fatal(err)
		}
		check("when nobody does any more", "example.com/mine")
	})
}

// A volume stays while it is bound, a class while a claim or a volume names it.
func TestVolumesAndClassesStayWhileTheyAreUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := cachetest.New()
		volumes, classes := api.Client().CoreV1().PersistentVolumes(), api.Client().StorageV1().VolumeAttributesClasses()
		gold := "gold"
		volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{VolumeAttributesClassName: &gold}}
		volume.Status.Phase = corev1.VolumeBound
		made(t)(volumes.Create(t.Context(), volume, metav1.CreateOptions{}))
		made(t)(classes.Create(t.Context(), &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: gold}}, metav1.CreateOptions{}))
		log := slog.New(slog.DiscardHandler)
		defer api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
			return NewVolumes(VolumeInputs{Client: client, Volumes: set.PersistentVolumes(), Log: log})
		}).Stop()
		defer api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
			return NewAttributes(AttributeInputs{
				Client: client, Classes: cache.Of[storagev1.VolumeAttributesClass](set, "storage.k8s.io", "volumeattributesclasses"),
				Claims: set.PersistentVolumeClaims(), Volumes: set.PersistentVolumes(), Log: log,
			})
		}).Stop()
		synctest.Wait()
		if err := volumes.Delete(t.Context(), "pv", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := classes.Delete(t.Context(), gold, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		pv, err := volumes.Get(t.Context(), "pv", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "of the volume while it is bound", pv.Finalizers, []string{volumeFinalizer})
		class, err := classes.Get(t.Context(), gold, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "of the class while a volume names it", class.Finalizers, []string{classFinalizer})
		pv.Status.Phase = corev1.VolumeReleased
		made(t)(volumes.UpdateStatus(t.Context(), pv, metav1.UpdateOptions{}))
		synctest.Wait()
		if _, err := volumes.Get(t.Context(), "pv", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("a volume that is not bound any more is still there: %v", err)
		}
		if _, err := classes.Get(t.Context(), gold, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("a class that nobody names any more is still there: %v", err)
		}
	})
}

// made fails the test when an object could not be written.
func made(t *testing.T) func(object any, err error) {
	return func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
}

func same(t *testing.T, when string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("finalizers %s: %v, want %v", when, got, want)
	}
}
