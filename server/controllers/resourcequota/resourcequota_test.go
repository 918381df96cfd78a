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

// What admission has counted is not counted down before it can be there: others would be let in in its place.
func TestWhatIsUnderwayCounts(t *testing.T) {
	api := cachetest.New()
	set := api.Set(t)
	ctx, cancel := context.WithCancel(context.Background())
	l := New(Inputs{Client: api.Client(), ResourceQuotas: set.ResourceQuotas(), Pods: set.Pods(), Services: set.Services(), Claims: set.PersistentVolumeClaims(), Log: slog.New(slog.DiscardHandler)})
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	quotas := api.Client().CoreV1().ResourceQuotas("default")
	q, err := quotas.Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "q"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("2")}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	used := func() string {
		if q, err = quotas.Get(t.Context(), "q", metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
		n, ok := q.Status.Used[corev1.ResourcePods]
		if !ok {
			return ""
		}
		return n.String()
	}
	until := func(want string) {
		t.Helper()
		for range 2000 {
			if used() == want {
				return
			}
			time.Sleep(2 * time.Millisecond)
		}
		t.Fatalf("used is %q, want %q", used(), want)
	}
	until("0")
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
