package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"bramble.dev/server/store"
)

// TestGroupCommit: while one commit is being synced, writes of ten objects and ten of one object gather, and the next
// commit carries all of them.
func TestGroupCommit(t *testing.T) {
	var commits atomic.Int64
	held, release := make(chan struct{}), make(chan struct{})
	db := openDB(t, func(o *store.Options) {
		store.SetFailureForTest(o, func(step string) error {
			if step == "commit" && commits.Add(1) == 1 {
				close(held)
				<-release
			}
			return nil
		})
	})
	s := configMaps(db)
	var wg sync.WaitGroup
	wg.Go(func() { set(t, s, "/configmaps/ns/first", nil) })
	<-held
	var started atomic.Int64
	for i := range 10 {
		wg.Go(func() { started.Add(1); set(t, s, "/configmaps/ns/o"+strconv.Itoa(i), nil) })
		wg.Go(func() {
			started.Add(1)
			err := s.GuaranteedUpdate(t.Context(), "/configmaps/ns/one", &corev1.ConfigMap{}, true, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
				cm := obj.(*corev1.ConfigMap)
				n, _ := strconv.Atoi(cm.Data["n"])
				cm.Data = map[string]string{"n": strconv.Itoa(n + 1)}
				return cm, nil
			}), nil)
			if err != nil {
				t.Error(err)
			}
		})
	}
	for started.Load() < 20 || db.StagedForTest() < 20 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if n := commits.Load(); n != 2 {
		t.Errorf("%d commits for 21 writes, want 2", n)
	}
	if got := data(t, s, "/configmaps/ns/one")["n"]; got != "10" {
		t.Errorf("ten increments gave %s", got)
	}
}

// TestFailedSync: after a commit that failed nothing is acknowledged, nothing is seen, and nothing is tried again.
func TestFailedSync(t *testing.T) {
	var fail atomic.Bool
	var fatal atomic.Value
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, func(o *store.Options) {
		o.Path = path
		o.Fatal = func(err error) { fatal.Store(err) }
		store.SetFailureForTest(o, func(step string) error {
			if fail.Load() {
				return errors.New("fsync: input/output error")
			}
			return nil
		})
	})
	s := configMaps(db)
	set(t, s, "/configmaps/ns/a", map[string]string{"n": "1"})
	w, err := s.Watch(t.Context(), "/configmaps", storage.ListOptions{ResourceVersion: strconv.FormatInt(db.Revision(), 10), Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	fail.Store(true)
	if err := s.Create(t.Context(), "/configmaps/ns/b", configMap(1), nil, 0); err == nil {
		t.Error("a write was acknowledged whose commit failed")
	}
	fail.Store(false)
	if err := s.Create(t.Context(), "/configmaps/ns/c", configMap(1), nil, 0); err == nil {
		t.Error("a write was acknowledged after a failed sync")
	}
	if fatal.Load() == nil {
		t.Error("Fatal was not called")
	}
	if data(t, s, "/configmaps/ns/b") != nil {
		t.Error("a reader sees what was not committed")
	}
	if err := s.ReadinessCheck(); err == nil {
		t.Error("the store says that it is ready")
	}
	select {
	case e := <-w.ResultChan():
		t.Errorf("a watch saw %v", e)
	case <-time.After(50 * time.Millisecond):
	}
	w.Stop()
	if err := db.Close(); err == nil {
		t.Error("Close reports nothing")
	}
	again := openDB(t, func(o *store.Options) { o.Path = path })
	if got := data(t, configMaps(again), "/configmaps/ns/a"); got["n"] != "1" {
		t.Errorf("the acknowledged write after a restart: %v", got)
	}
}

// TestFailedCheckpoint: a sync that fails while the log is moved is as bad as any other.
func TestFailedCheckpoint(t *testing.T) {
	store.LongLogForTest(t)
	var fatal atomic.Int64
	db := openDB(t, func(o *store.Options) {
		o.Fatal = func(error) { fatal.Add(1) }
		store.SetFailureForTest(o, func(step string) error {
			if step == "checkpoint" {
				return errors.New("fsync: input/output error")
			}
			return nil
		})
	})
	s := configMaps(db)
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		err = s.Create(t.Context(), key(n), configMap(n), nil, 0)
	}
	if err == nil || fatal.Load() != 1 {
		t.Errorf("%d writes, the last error %v, Fatal called %d times", n, err, fatal.Load())
	}
	if data(t, s, key(n-1)) != nil {
		t.Error("what was refused can be read")
	}
	db.Close() // reports the failure; openDB's own Close finds it closed
}

// TestFullDisk fills a small file system: writes are refused, readers go on, and when there is room again so do writes.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("this test mounts a tmpfs and needs root: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	db := openDB(t, func(o *store.Options) { o.Path = filepath.Join(dir, "state.db") })
	s := configMaps(db)
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 600<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	n := 0
	var err error
	for ; err == nil && n < 5000; n++ {
		err = s.Create(t.Context(), key(n), configMap(n), nil, 0)
	}
	if err == nil {
		t.Fatal("the disk is not full")
	}
	t.Logf("refused after %d objects: %v", n-1, err)
	rev := db.Revision()
	if data(t, s, key(0)) == nil || data(t, s, key(n-2)) == nil {
		t.Error("what was acknowledged cannot be read")
	}
	if data(t, s, key(n-1)) != nil {
		t.Error("what was refused can be read")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	set(t, s, key(0), map[string]string{"again": "yes"})
	if err := s.Create(t.Context(), key(n-1), configMap(n), nil, 0); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if db.Revision() <= rev {
		t.Error("the revision has not moved")
	}
}

// TestSlowWatch: a watch that does not read holds nobody up and no memory, and is cut off with 410.
func TestSlowWatch(t *testing.T) {
	t.Parallel()
	db := openDB(t, func(o *store.Options) { o.RingBytes = 2000; o.RingAge = time.Nanosecond })
	s := configMaps(db)
	w, err := s.Watch(t.Context(), "/configmaps", storage.ListOptions{ResourceVersion: "1", Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for i := range 400 {
		set(t, s, "/configmaps/ns/x", map[string]string{"n": strconv.Itoa(i)})
	}
	var last watch.Event
	n := 0
	for e := range w.ResultChan() {
		last = e
		n++
	}
	if last.Type != watch.Error || n > 200 {
		t.Errorf("%d events, the last %v", n, last)
	}
	if got := fmt.Sprint(last.Object); !contains(got, "too old") {
		t.Errorf("error: %s", got)
	}
}

// TestCloseWaitsForWatches: also for one that nobody reads; and one that comes too late ends at once.
func TestCloseWaitsForWatches(t *testing.T) {
	t.Parallel()
	db := openDB(t)
	s := configMaps(db)
	open := func() watch.Interface {
		w, err := s.Watch(context.Background(), "/configmaps", storage.ListOptions{ResourceVersion: "1", Recursive: true, Predicate: storage.Everything})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	unread, idle := open(), open()
	go func() {
		for range idle.ResultChan() {
		}
	}()
	for i := range 100 {
		set(t, s, "/configmaps/ns/x", map[string]string{"n": strconv.Itoa(i)})
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for name, w := range map[string]watch.Interface{"unread": unread, "idle": idle, "late": open()} {
		for n, open := 0, true; open; n++ {
			select {
			case _, open = <-w.ResultChan():
			default:
				t.Errorf("the %s watch runs after Close, %d events", name, n)
				open = false
			}
		}
	}
}

// TestReadsAfterClose: a request that the server no longer waits for reads what only the disk holds.
func TestReadsAfterClose(t *testing.T) {
	t.Parallel()
	db := openDB(t, func(o *store.Options) { o.CacheBytes = 1 })
	s := configMaps(db)
	for i := range 10 {
		set(t, s, fmt.Sprintf("/configmaps/ns/c%d", i), configMap(i).Data)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Get(t.Context(), "/configmaps/ns/c1", storage.GetOptions{}, newConfigMap()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("get: %v", err)
	}
	if err := s.GetList(t.Context(), "/configmaps", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, &corev1.ConfigMapList{}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("list: %v", err)
	}
}

func TestFollow(t *testing.T) {
	db := openDB(t, func(o *store.Options) { o.CacheBytes = 1 })
	transformer, _ := parts()
	s := db.Storage(store.Resource{Prefix: "/configmaps", Codec: protobuf, New: newConfigMap, Transformer: transformer})
	for i := range 100 {
		set(t, s, fmt.Sprintf("/configmaps/ns/c%02d", i), configMap(i).Data)
	}
	f, err := db.Follow("/registry/configmaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	snapshot := f.Snapshot()
	if len(snapshot) != 100 || snapshot[7].Key != "/registry/configmaps/ns/c07" {
		t.Fatalf("snapshot of %d: %v", len(snapshot), snapshot[:1])
	}
	for i, kv := range snapshot {
		obj, err := runtime.Decode(protobuf, kv.Value)
		if err != nil || obj.(*corev1.ConfigMap).Data["key"] != configMap(i).Data["key"] {
			t.Fatalf("%s: %v, %v", kv.Key, obj, err)
		}
	}
	changed := set(t, s, "/configmaps/ns/c07", map[string]string{"new": "yes"})
	set(t, s, "/configmaps/ns/d", nil)
	if err := s.Delete(t.Context(), "/configmaps/ns/c00", &corev1.ConfigMap{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	var got []store.Event
	for len(got) < 3 {
		events, err := f.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, events...)
	}
	if strconv.FormatInt(got[0].Revision, 10) != changed.ResourceVersion || string(got[0].Previous) != string(snapshot[7].Value) {
		t.Errorf("update: %+v", got[0])
	}
	if got[1].Previous != nil || got[1].Value == nil {
		t.Errorf("create: %+v", got[1])
	}
	if n, last := db.Stand("/registry/configmaps"); n != 100 || last != got[2].Revision || f.Revision() < last {
		t.Errorf("%d objects stand at %d, the follower is at %d after %d", n, last, f.Revision(), got[2].Revision)
	}
	if n, last := db.Stand("/registry/nothing"); n != 0 || last > f.Revision() {
		t.Errorf("%d objects of nothing stand at %d", n, last)
	}
	if got[2].Value != nil || string(got[2].Previous) != string(snapshot[0].Value) {
		t.Errorf("delete: %+v", got[2])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := f.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nothing new: %v", err)
	}
}

// TestFollowTooOld: a follower that comes too late is told so.
func TestFollowTooOld(t *testing.T) {
	db := openDB(t, func(o *store.Options) { o.RingAge = time.Nanosecond })
	f, err := db.Follow("/registry/configmaps")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		set(t, configMaps(db), "/configmaps/ns/x", map[string]string{"n": strconv.Itoa(i)})
	}
	if _, err := f.Next(t.Context()); !errors.Is(err, store.ErrTooOld) {
		t.Errorf("error: %v", err)
	}
}
