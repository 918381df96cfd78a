package disruption

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

// The status follows pods and sizes, an eviction that does not happen is
// forgotten, and a mark that nobody acts upon is taken away.
func TestStatusFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := cachetest.New()
		client, ctx := api.Client(), t.Context()
		defer api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
			return New(Inputs{
				Client: client, Events: &record.FakeRecorder{}, Budgets: set.PodDisruptionBudgets(), Pods: set.Pods(), ReplicationControllers: set.ReplicationControllers(),
				ReplicaSets: set.ReplicaSets(), Deployments: set.Deployments(), StatefulSets: set.StatefulSets(), Log: slog.New(slog.DiscardHandler),
			})
		}).Stop()
		budgets, sets, ns := client.PolicyV1().PodDisruptionBudgets("default"), client.AppsV1().StatefulSets("default"), client.CoreV1().Pods("default")
		size := int32(3)
		sts := must(sets.Create(ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{Replicas: &size}}, metav1.CreateOptions{}))
		b := budget("", "1")
		b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}
		must(budgets.Create(ctx, b, metav1.CreateOptions{}))
		for _, name := range []string{"db-0", "db-1", "db-2"} {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
				Name: name, Labels: map[string]string{"app": "db"}, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(sts, appsv1.SchemeGroupVersion.WithKind("StatefulSet"))},
			}}
			ready(pod)
			must(ns.Create(ctx, pod, metav1.CreateOptions{}))
		}
		want := func(healthy, desired, allowed int32) policyv1.PodDisruptionBudgetStatus {
			t.Helper()
			synctest.Wait()
			s := must(budgets.Get(ctx, "b", metav1.GetOptions{})).Status
			if s.CurrentHealthy != healthy || s.DesiredHealthy != desired || s.DisruptionsAllowed != allowed {
				t.Errorf("got %+v, want %d healthy of %d, %d allowed", s, healthy, desired, allowed)
			}
			return s
		}
		want(3, 2, 1)

		// As the API does when it allows an eviction that then does not happen.
		b = must(budgets.Get(ctx, "b", metav1.GetOptions{}))
		b.Status.DisruptedPods = map[string]metav1.Time{"db-0": metav1.Now()}
		b.Status.DisruptionsAllowed--
		must(budgets.UpdateStatus(ctx, b, metav1.UpdateOptions{}))
		pod := must(ns.Get(ctx, "db-0", metav1.GetOptions{}))
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
		must(ns.UpdateStatus(ctx, pod, metav1.UpdateOptions{}))
		want(2, 2, 0)
		time.Sleep(deletionTimeout + time.Second)
		if s := want(3, 2, 1); len(s.DisruptedPods) != 0 {
			t.Errorf("it is still waited for %v", s.DisruptedPods)
		}
		if c := must(ns.Get(ctx, "db-0", metav1.GetOptions{})).Status.Conditions[1]; c.Status != corev1.ConditionFalse {
			t.Errorf("the mark stays: %+v", c)
		}

		sts = must(sets.Get(ctx, "db", metav1.GetOptions{}))
		*sts.Spec.Replicas = 4
		must(sets.Update(ctx, sts, metav1.UpdateOptions{}))
		want(3, 3, 0)
		if err := sets.Delete(ctx, "db", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if s := want(3, 3, 0); s.Conditions[0].Reason != policyv1.SyncFailedReason {
			t.Errorf("nobody knows how many there should be: %+v", s)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
