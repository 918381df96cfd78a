package store_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/storage"

	"bramble.dev/server/store"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

func pageOf(limit int64, token string) storage.ListOptions {
	return storage.ListOptions{Recursive: true, Predicate: storage.SelectionPredicate{
		Label: labels.Everything(), Field: fields.Everything(), Limit: limit, Continue: token}}
}

// TestPinnedSnapshot: the pages of one list are of one moment, also when the ring no longer reaches back to it.
func TestPinnedSnapshot(t *testing.T) {
	db := openDB(t, func(o *store.Options) { o.RingAge = time.Nanosecond; o.CacheBytes = 1 })
	s := configMaps(db)
	fill(t, s, 30)
	var first corev1.ConfigMapList
	if err := s.GetList(t.Context(), "/configmaps", pageOf(10, ""), &first); err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		set(t, s, key(i), map[string]string{"changed": "yes"})
	}
	if err := s.Delete(t.Context(), key(29), &corev1.ConfigMap{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	all := first.Items
	for token := first.Continue; token != ""; {
		var next corev1.ConfigMapList
		if err := s.GetList(t.Context(), "/configmaps", pageOf(10, token), &next); err != nil {
			t.Fatal(err)
		}
		if next.ResourceVersion != first.ResourceVersion {
			t.Errorf("the next page is of %s, the first of %s", next.ResourceVersion, first.ResourceVersion)
		}
		all = append(all, next.Items...)
		token = next.Continue
	}
	if len(all) != 30 {
		t.Errorf("%d objects", len(all))
	}
	for _, cm := range all {
		if cm.Data["changed"] != "" {
			t.Errorf("%s is of another moment", cm.Name)
		}
	}
}

// TestSnapshotsAreBounded: what a token keeps alive has a bound, and beyond it a client can go on inconsistently.
func TestSnapshotsAreBounded(t *testing.T) {
	for name, change := range map[string]func(*store.Options){
		"bytes": func(o *store.Options) { o.SnapshotBytes = 10_000 },
		"time":  func(o *store.Options) { o.SnapshotAge = time.Nanosecond },
	} {
		t.Run(name, func(t *testing.T) {
			db := openDB(t, func(o *store.Options) { o.RingAge = time.Nanosecond }, change)
			s := configMaps(db)
			fill(t, s, 30)
			var list corev1.ConfigMapList
			if err := s.GetList(t.Context(), "/configmaps", pageOf(10, ""), &list); err != nil {
				t.Fatal(err)
			}
			for i := range 30 {
				set(t, s, key(i), map[string]string{"changed": "yes"})
			}
			err := s.GetList(t.Context(), "/configmaps", pageOf(10, list.Continue), &corev1.ConfigMapList{})
			if !apierrors.IsResourceExpired(err) {
				t.Fatalf("error: %v", err)
			}
			token := err.(apierrors.APIStatus).Status().ListMeta.Continue
			var rest corev1.ConfigMapList
			if err := s.GetList(t.Context(), "/configmaps", pageOf(0, token), &rest); err != nil {
				t.Fatal(err)
			}
			if len(rest.Items) != 20 || rest.Items[0].Data["changed"] != "yes" {
				t.Errorf("%d objects after the first page", len(rest.Items))
			}
		})
	}
}

// TestExactRevision lists every recent revision again.
func TestExactRevision(t *testing.T) {
	db := openDB(t, func(o *store.Options) { o.CacheBytes = 1 })
	s := configMaps(db)
	type state struct{ rv, want string }
	var states []state
	steps := []func(){
		func() { set(t, s, key(1), map[string]string{"v": "1"}) },
		func() { set(t, s, key(2), map[string]string{"v": "2"}) },
		func() { set(t, s, key(1), map[string]string{"v": "3"}) },
		func() { set(t, leases(db), "/leases/ns/x", nil) },
		func() {
			if err := s.Delete(t.Context(), key(1), &corev1.ConfigMap{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		},
		func() { set(t, s, key(1), map[string]string{"v": "4"}) },
	}
	show := func(opts storage.ListOptions) (string, string) {
		opts.Recursive, opts.Predicate = true, storage.Everything
		var list corev1.ConfigMapList
		if err := s.GetList(t.Context(), "/configmaps", opts, &list); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, cm := range list.Items {
			b.WriteString(cm.ResourceVersion + "=" + cm.Data["v"] + " ")
		}
		return b.String(), list.ResourceVersion
	}
	for _, step := range steps {
		step()
		want, rv := show(storage.ListOptions{})
		states = append(states, state{rv, want})
	}
	for _, st := range states {
		got, rv := show(storage.ListOptions{ResourceVersion: st.rv, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
		if got != st.want || rv != st.rv {
			t.Errorf("at %s: %q at %s, want %q", st.rv, got, rv, st.want)
		}
	}
}

// TestTokenExpiresOnIdleStore: a continue token ends by time alone, and what is listed afresh meanwhile is not cut short.
func TestTokenExpiresOnIdleStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var written atomic.Int64
		db := openDB(t, func(o *store.Options) {
			store.SetFailureForTest(o, func(string) error { written.Add(1); return nil })
		})
		s := configMaps(db)
		fill(t, s, 30)
		token := func() string {
			var page corev1.ConfigMapList
			if err := s.GetList(t.Context(), "/configmaps", pageOf(10, ""), &page); err != nil {
				t.Fatal(err)
			}
			return page.Continue
		}
		try := func(token string) error {
			return s.GetList(t.Context(), "/configmaps", pageOf(10, token), &corev1.ConfigMapList{})
		}
		first, before := token(), written.Load()
		var later string
		for wait := time.Duration(0); ; wait += 20 * time.Second {
			if wait == 4*time.Minute {
				later = token()
			}
			err := try(first)
			if wait <= 5*time.Minute && err != nil {
				t.Fatalf("after %s: %v", wait, err)
			}
			if apierrors.IsResourceExpired(err) {
				break
			}
			if wait > 10*time.Minute {
				t.Fatalf("after %s the token is still good: %v", wait, err)
			}
			time.Sleep(20 * time.Second)
			synctest.Wait()
		}
		if err := try(later); err != nil {
			t.Errorf("a later token: %v", err)
		}
		if n := written.Load() - before; n != 0 {
			t.Errorf("%d writes to the disk", n)
		}
	})
}
