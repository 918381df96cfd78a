package store_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"bramble.dev/server/store"
)

// leases are volatile while their holder stays the same.
func leases(db *store.DB) storage.Interface {
	return db.Storage(store.Resource{Prefix: "/leases", Codec: protobuf, New: newConfigMap,
		Volatile: func(old, new runtime.Object) bool {
			return old != nil && old.(*corev1.ConfigMap).Data["holder"] == new.(*corev1.ConfigMap).Data["holder"]
		}})
}

// events are volatile altogether.
func events(db *store.DB) storage.Interface {
	return db.Storage(store.Resource{Prefix: "/events", Codec: protobuf, New: newConfigMap,
		Volatile: func(_, _ runtime.Object) bool { return true }})
}

func set(t testing.TB, s storage.Interface, key string, data map[string]string) *corev1.ConfigMap {
	t.Helper()
	out := &corev1.ConfigMap{}
	err := s.GuaranteedUpdate(t.Context(), key, out, true, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		cm := obj.(*corev1.ConfigMap)
		cm.Data = data
		return cm, nil
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func data(t testing.TB, s storage.Interface, key string) map[string]string {
	t.Helper()
	var cm corev1.ConfigMap
	if err := s.Get(t.Context(), key, storage.GetOptions{IgnoreNotFound: true}, &cm); err != nil {
		t.Fatal(err)
	}
	return cm.Data
}

func renew(t testing.TB, s storage.Interface, holder string, n int) *corev1.ConfigMap {
	return set(t, s, "/leases/ns/leader", map[string]string{"holder": holder, "renewed": strconv.Itoa(n)})
}

// reopen opens a copy of the files as they are now: what a crash would leave.
func reopen(t *testing.T, path string) *store.DB {
	t.Helper()
	dir := t.TempDir()
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "state.db"+suffix), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	db, err := store.Open(t.Context(), store.Options{Path: filepath.Join(dir, "state.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestVolatile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	now := time.Now()
	db := openDB(t, func(o *store.Options) { o.Path = path; store.SetClockForTest(o, func() time.Time { return now }) })
	s := leases(db)
	renew(t, s, "a", 0) // a create, hence durable
	wal := size(t, path+"-wal")
	var last *corev1.ConfigMap
	for i := range 5000 {
		last = renew(t, s, "a", i+1)
	}
	set(t, events(db), "/events/ns/e", map[string]string{"x": "1"})
	if got := size(t, path+"-wal"); got != wal {
		t.Errorf("renewals have written %d bytes", got-wal)
	}
	crashed := reopen(t, path)
	if got := data(t, leases(crashed), "/leases/ns/leader"); got["holder"] != "a" || got["renewed"] != "0" {
		t.Errorf("after a crash: %v", got)
	}
	if rev, _ := strconv.ParseInt(last.ResourceVersion, 10, 64); crashed.Revision() < rev {
		t.Errorf("after a crash the revision is %d, and %d was handed out", crashed.Revision(), rev)
	}
	renew(t, s, "b", 0)
	if got := data(t, leases(reopen(t, path)), "/leases/ns/leader"); got["holder"] != "b" {
		t.Errorf("a new holder is durable; after a crash: %v", got)
	}

	// Long after the last time it joins a commit that happens anyway.
	renew(t, s, "b", 7)
	now = now.Add(time.Hour)
	set(t, configMaps(db), "/configmaps/ns/x", map[string]string{"a": "b"})
	crashed = reopen(t, path)
	if got := data(t, leases(crashed), "/leases/ns/leader"); got["renewed"] != "7" {
		t.Errorf("after the flush: %v", got)
	}
	if got := data(t, events(crashed), "/events/ns/e"); got["x"] != "1" {
		t.Errorf("event after the flush: %v", got)
	}

	// And a clean stop loses nothing.
	renew(t, s, "b", 8)
	set(t, events(db), "/events/ns/late", map[string]string{"x": "2"})
	rev := db.Revision()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	again := openDB(t, func(o *store.Options) { o.Path = path })
	if got := data(t, leases(again), "/leases/ns/leader"); got["renewed"] != "8" {
		t.Errorf("after a clean stop: %v", got)
	}
	if got := data(t, events(again), "/events/ns/late"); got["x"] != "2" {
		t.Errorf("event after a clean stop: %v", got)
	}
	if again.Revision() != rev {
		t.Errorf("a clean stop moved the revision from %d to %d", rev, again.Revision())
	}
}

// TestVolatileDelete: what the disk has never held needs no write to go, and does not come back.
func TestVolatileDelete(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, func(o *store.Options) { o.Path = path })
	s := events(db)
	set(t, s, "/events/ns/first", map[string]string{"x": "1"}) // reserves revisions
	wal := size(t, path+"-wal")
	set(t, s, "/events/ns/e", map[string]string{"x": "1"})
	if err := s.Delete(t.Context(), "/events/ns/e", &corev1.ConfigMap{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := size(t, path+"-wal"); got != wal {
		t.Errorf("%d bytes were written", got-wal)
	}
	db.Close()
	again := openDB(t, func(o *store.Options) { o.Path = path })
	if got := data(t, events(again), "/events/ns/e"); got != nil {
		t.Errorf("it came back: %v", got)
	}
	// One that is on disk is deleted there, at once.
	if err := events(again).Delete(t.Context(), "/events/ns/first", &corev1.ConfigMap{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := data(t, events(reopen(t, path)), "/events/ns/first"); got != nil {
		t.Errorf("it came back: %v", got)
	}
}

// TestVolatileBound: a storm of events does not stay in memory only.
func TestVolatileBound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, func(o *store.Options) { o.Path = path; o.VolatileBytes = 20_000 })
	for i := range 30 {
		set(t, events(db), "/events/ns/e"+strconv.Itoa(i), configMap(i).Data)
	}
	crashed := reopen(t, path)
	var list corev1.ConfigMapList
	if err := events(crashed).GetList(t.Context(), "/events", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) < 10 {
		t.Errorf("only %d of 30 events are on disk", len(list.Items))
	}
}

// TestExpiryIsLazy: an object that ends is gone for readers at once, and its row goes with a later commit.
func TestExpiryIsLazy(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, func(o *store.Options) { o.Path = path })
	s := configMaps(db)
	if err := s.Create(t.Context(), "/configmaps/ns/short", configMap(1), nil, 1); err != nil {
		t.Fatal(err)
	}
	wal := size(t, path+"-wal")
	deadline := time.Now().Add(10 * time.Second)
	for data(t, s, "/configmaps/ns/short") != nil {
		if time.Now().After(deadline) {
			t.Fatal("it did not expire")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if got := size(t, path+"-wal"); got != wal {
		t.Errorf("%d bytes were written", got-wal)
	}
	// A new one of the same name takes its row.
	if err := s.Create(t.Context(), "/configmaps/ns/short", configMap(2), nil, 0); err != nil {
		t.Fatal(err)
	}
	db.Close()
	again := openDB(t, func(o *store.Options) { o.Path = path })
	if got := data(t, configMaps(again), "/configmaps/ns/short"); got["key"] != configMap(2).Data["key"] {
		t.Errorf("after a restart: %v", got)
	}
}

func size(t testing.TB, path string) int64 {
	t.Helper()
	i, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return i.Size()
}
