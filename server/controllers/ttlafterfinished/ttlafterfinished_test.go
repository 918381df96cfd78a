package ttlafterfinished

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

func TestJobsGoWhenTheirTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := cachetest.New()
		jobs := api.Client().BatchV1().Jobs("default")
		for name, ttl := range map[string]int32{"soon": 60, "late": 3600, "never": -1, "running": 1} {
			j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}}
			if ttl >= 0 {
				j.Spec.TTLSecondsAfterFinished = &ttl
			}
			if name != "running" {
				j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
			}
			if _, err := jobs.Create(t.Context(), j, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		defer api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
			return New(Inputs{Client: client, Jobs: set.Jobs(), Log: slog.New(slog.DiscardHandler)})
		}).Stop()
		check := func(when time.Duration, want map[string]bool) {
			time.Sleep(when)
			synctest.Wait()
			for name := range want {
				j, err := jobs.Get(t.Context(), name, metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if going := j.DeletionTimestamp != nil; going != want[name] {
					t.Errorf("%s goes: %v", name, going)
				}
				if want[name] && j.Finalizers[0] != metav1.FinalizerDeleteDependents {
					t.Errorf("%s does not wait for its pods: %v", name, j.Finalizers)
				}
			}
		}
		check(59*time.Second, map[string]bool{"soon": false})
		check(2*time.Second, map[string]bool{"soon": true, "late": false})
		// A longer time that is set before the first is over counts.
		late, err := jobs.Get(t.Context(), "late", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		*late.Spec.TTLSecondsAfterFinished = 7200
		if _, err := jobs.Update(t.Context(), late, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		check(90*time.Minute, map[string]bool{"late": false})
		check(time.Hour, map[string]bool{"late": true, "never": false, "running": false})
	})
}
