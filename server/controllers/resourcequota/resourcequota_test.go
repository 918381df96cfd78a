package resourcequota

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache/cachetest"
)

// start runs the controller over an API.
func start(t *testing.T, api *cachetest.API) {
	set := api.Set(t)
	ctx, cancel := context.WithCancel(context.Background())
	l := New(Inputs{Client: api.Client(), ResourceQuotas: set.ResourceQuotas(), Pods: set.Pods(), Services: set.Services(), Claims: set.PersistentVolumeClaims(), Log: slog.New(slog.DiscardHandler)})
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// limit makes a quota of one resource, and gives what waits until so much of it is used.
func limit(t *testing.T, api *cachetest.API, name corev1.ResourceName, most string) (until func(want string)) {
	t.Helper()
	quotas := api.Client().CoreV1().ResourceQuotas("default")
	if _, err := quotas.Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "q"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{name: resource.MustParse(most)}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return func(want string) {
		t.Helper()
		used := ""
		for range 2000 {
			q, err := quotas.Get(t.Context(), "q", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if n, ok := q.Status.Used[name]; ok {
				used = n.String()
			}
			if used == want {
				return
			}
			time.Sleep(2 * time.Millisecond)
		}
		t.Fatalf("used is %q, want %q", used, want)
	}
}

// What admission has counted is not counted down before it can be there: others would be let in in its place.
func TestWhatIsUnderwayCounts(t *testing.T) {
	api := cachetest.New()
	start(t, api)
	until := limit(t, api, corev1.ResourcePods, "2")
	until("0")
	quotas := api.Client().CoreV1().ResourceQuotas("default")
	q, err := quotas.Get(t.Context(), "q", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	q.Status.Used = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1")} // as admission does
	if _, err := quotas.UpdateStatus(t.Context(), q, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	raised := time.Now()
	until("0") // nothing came of it
	if after := time.Since(raised); after < underway*9/10 {
		t.Errorf("it was counted down after %v", after)
	}
}

// What a pod that is made smaller had counts until its node says that it has less, and not longer.
func TestSmallerPod(t *testing.T) {
	api := cachetest.New()
	start(t, api)
	until := limit(t, api, corev1.ResourceRequestsCPU, "1")
	amount := func(s string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(s)}
	}
	all := api.Client().CoreV1().Pods("default")
	p, err := all.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", Generation: 1},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Resources: corev1.ResourceRequirements{Requests: amount("400m")}}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	has := func(s string) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", AllocatedResources: amount(s), Resources: &corev1.ResourceRequirements{Requests: amount(s)}}}
		if p, err = all.UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	has("400m")
	until("400m")
	p.Generation, p.Spec.Containers[0].Resources.Requests = 2, amount("100m")
	if p, err = all.Update(t.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	until("400m")
	has("100m")
	until("100m")
}
