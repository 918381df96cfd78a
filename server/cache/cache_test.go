package cache_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

func pod(namespace, name, owner string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, Labels: map[string]string{"app": name},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
	}}
	if owner != "" {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: owner, UID: "uid-" + "x", Controller: &yes}}
	}
	return p
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
	t.Fatalf("timed out waiting for %s", what)
}

// log records what a handler was told.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) add(c cache.Change[corev1.Pod]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	word := "changed "
	if c.Old == nil {
		word = "new "
	} else if c.New == nil {
		word = "gone "
	}
	l.lines = append(l.lines, word+c.Key().String())
}

func (l *log) get() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

func TestFollowsTheSource(t *testing.T) {
	ctx := t.Context()
	api := cachetest.New()
	client := api.Client()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(client.CoreV1().Pods("a").Create(ctx, pod("a", "one", ""), metav1.CreateOptions{}))
	pods := api.Set(t).Pods()
	if p, ok := pods.Get("a", "one"); !ok || p.ManagedFields != nil || p.ResourceVersion != "1" {
		t.Fatalf("the first use should show what is there, without field ownership, got %v", p)
	}
	var seen log
	stop := pods.OnChange(seen.add)
	must(client.CoreV1().Pods("b").Create(ctx, pod("b", "two", "x"), metav1.CreateOptions{}))
	changed := pod("a", "one", "")
	changed.Labels["app"] = "other"
	must(client.CoreV1().Pods("a").Update(ctx, changed, metav1.UpdateOptions{}))
	must(nil, client.CoreV1().Pods("a").Delete(ctx, "one", metav1.DeleteOptions{}))
	want := []string{"new a/one", "new b/two", "changed a/one", "gone a/one"}
	waitFor(t, "four changes", func() bool { return slices.Equal(seen.get(), want) })
	stop()
	must(nil, client.CoreV1().Pods("b").Delete(ctx, "two", metav1.DeleteOptions{}))
	waitFor(t, "an empty cache", func() bool { return pods.Len() == 0 })
	if got := seen.get(); !slices.Equal(got, want) {
		t.Errorf("a stopped handler was called: %v", got)
	}
}

func TestStartsOverWhenTheSourceForgot(t *testing.T) {
	ctx := t.Context()
	api := cachetest.New()
	client := api.Client().CoreV1().Pods("a")
	create := func(name string) {
		if _, err := client.Create(ctx, pod("a", name, ""), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create("stays")
	create("goes")
	create("returns")
	pods := api.Set(t).Pods()
	var seen log
	defer pods.OnChange(seen.add)()
	before := len(seen.get())
	api.Source.Quietly(func() {
		_ = client.Delete(ctx, "goes", metav1.DeleteOptions{})
		_ = client.Delete(ctx, "returns", metav1.DeleteOptions{})
		create("returns")
		create("comes")
	})
	waitFor(t, "the difference", func() bool { return len(seen.get()) == before+4 })
	got := seen.get()[before:]
	slices.Sort(got)
	if want := []string{"gone a/goes", "gone a/returns", "new a/comes", "new a/returns"}; !slices.Equal(got, want) {
		t.Errorf("handlers saw %v, want %v", got, want)
	}
}

func TestIndexes(t *testing.T) {
	ctx := t.Context()
	api := cachetest.New()
	pods := api.Set(t).Pods()
	for _, p := range []*corev1.Pod{pod("a", "owned", "x"), pod("a", "free", ""), pod("b", "free", "")} {
		if _, err := api.Client().CoreV1().Pods(p.Namespace).Create(ctx, p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "three pods", func() bool { return pods.Len() == 3 })
	if got := pods.ByOwner("uid-x"); len(got) != 1 || got[0].Name != "owned" {
		t.Errorf("ByOwner gave %d", len(got))
	}
	if got := pods.Orphans("a"); len(got) != 1 || got[0].Name != "free" {
		t.Errorf("Orphans gave %d", len(got))
	}
	if got := pods.List("", labels.SelectorFromSet(labels.Set{"app": "free"})); len(got) != 2 {
		t.Errorf("List by label gave %d", len(got))
	}
	orphaned := pod("a", "owned", "")
	if _, err := api.Client().CoreV1().Pods("a").Update(ctx, orphaned, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the index to follow", func() bool { return len(pods.ByOwner("uid-x")) == 0 && len(pods.Orphans("a")) == 2 })
}

func TestSeenWaitsForTheWrite(t *testing.T) {
	api := cachetest.New()
	pods := api.Set(t).Pods()
	created, err := api.Client().CoreV1().Pods("a").Create(t.Context(), pod("a", "one", ""), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := pods.Seen(created.ResourceVersion)(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok := pods.Get("a", "one"); !ok {
		t.Error("the cache said that it had seen the pod, but has not")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := pods.Seen("999")(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a write that never happened was seen: %v", err)
	}
}

// What was written and deleted again while the source had lost its place is seen in the snapshot that follows, though no
// object in it is as new.
func TestSeenInASnapshotWithoutTheObject(t *testing.T) {
	api := cachetest.New()
	pods, client := api.Set(t).Pods(), api.Client().CoreV1().Pods("a")
	var seen func(context.Context) error
	api.Source.Quietly(func() {
		created, err := client.Create(t.Context(), pod("a", "one", ""), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		seen = pods.Seen(created.ResourceVersion)
		if err := client.Delete(t.Context(), "one", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := seen(ctx); err != nil {
		t.Error(err)
	}
}

func TestASourceThatFailsAtFirst(t *testing.T) {
	api := cachetest.New()
	api.Source.Fail(errors.New("closed"))
	pods := api.Set(t).Pods()
	api.Source.Fail(nil)
	if err := pods.WaitSynced(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestReadsJSONAndSkipsWhatItCannotRead(t *testing.T) {
	api := cachetest.New()
	p := pod("a", "json", "")
	p.APIVersion, p.Kind = "v1", "Pod"
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	prefix := cachetest.Prefix(schema.GroupResource{Resource: "pods"})
	api.Source.Put(prefix+"/a/broken", []byte("nonsense"))
	api.Source.Put(prefix+"/a/json", raw)
	pods := api.Set(t).Pods()
	if got := pods.List("", nil); len(got) != 1 || got[0].Name != "json" {
		t.Errorf("got %d pods", len(got))
	}
}
