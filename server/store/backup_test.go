package store_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"bramble.dev/server/store"
	"bramble.dev/test/emulated"
)

// TestBackupAndRestore backs up while sixteen writers write, goes on, and restores: what the backup has is there, under
// a new incarnation and above every revision that was handed out.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, backup := filepath.Join(dir, "state.db"), filepath.Join(dir, "backup.db")
	db := openDB(t, func(o *store.Options) { o.Path = path })
	s := configMaps(db)
	fill(t, s, 200)
	set(t, events(db), "/events/ns/e", map[string]string{"x": "1"})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range 16 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					set(t, s, key(1000+w), map[string]string{"n": strconv.Itoa(i)})
				}
			}
		})
	}
	if err := db.Backup(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	close(stop)
	wg.Wait()
	if err := db.Backup(t.Context(), backup); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("over an existing file: %v", err)
	}
	outside := filepath.Join(dir, "outside.db")
	if err := store.Restore(t.Context(), backup, path, nothing); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("restore under a running server: %v", err)
	}
	set(t, s, key(0), map[string]string{"after": "the backup"})
	rev, incarnation := db.Revision(), db.Incarnation()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := store.BackupFile(t.Context(), path, outside); err != nil {
		t.Errorf("of a database that nobody uses: %v", err)
	}
	if err := store.Restore(t.Context(), backup, path, nothing); err != nil {
		t.Fatal(err)
	}
	again := openDB(t, func(o *store.Options) { o.Path = path })
	if again.Incarnation() == incarnation {
		t.Error("the incarnation is the old one")
	}
	if again.Revision() <= rev {
		t.Errorf("revision %d, and %d was handed out", again.Revision(), rev)
	}
	if got := data(t, configMaps(again), key(0)); got["key"] != configMap(0).Data["key"] {
		t.Errorf("restored: %v", got)
	}
	if got := data(t, events(again), "/events/ns/e"); got["x"] != "1" {
		t.Errorf("the volatile class is in a backup: %v", got)
	}
	// A watch of the earlier life is told to list again.
	w, err := configMaps(again).Watch(t.Context(), "/configmaps", storage.ListOptions{ResourceVersion: strconv.FormatInt(rev, 10), Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if e := <-w.ResultChan(); e.Type != watch.Error || !apierrors.IsResourceExpired(apierrors.FromObject(e.Object)) {
		t.Errorf("event %v", e)
	}
	aside, _ := filepath.Glob(path + ".replaced-*")
	if len(aside) != 1 {
		t.Fatalf("what was there before is at %v", aside)
	}
	old := openDB(t, func(o *store.Options) { o.Path = aside[0] })
	if got := data(t, configMaps(old), key(0)); got["after"] != "the backup" {
		t.Errorf("what was there before: %v", got)
	}
}

func nothing() error { return nil }

// TestRestoreIsReadyBefore: what belongs to the database is put in place when the copy is made and has not yet its name; if
// that fails nothing is there.
func TestRestoreIsReadyBefore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	from, backup, path := filepath.Join(dir, "from.db"), filepath.Join(dir, "backup.db"), filepath.Join(dir, "state.db")
	db := openDB(t, func(o *store.Options) { o.Path = from })
	if err := errors.Join(db.Close(), store.BackupFile(t.Context(), from, backup)); err != nil {
		t.Fatal(err)
	}
	full := errors.New("no room")
	for _, want := range []error{full, nil} {
		err := store.Restore(t.Context(), backup, path, func() error {
			if _, err := os.Stat(path); err == nil {
				t.Error("the database is there before what belongs to it")
			}
			if err := store.Verify(t.Context(), path+".restoring"); err != nil {
				t.Errorf("the copy is not made yet: %v", err)
			}
			return want
		})
		if !errors.Is(err, want) {
			t.Errorf("error %v, want %v", err, want)
		}
		left, _ := filepath.Glob(path + "*")
		if _, err := os.Stat(path); (err == nil) != (want == nil) || len(left) > 2 { // the lock is one
			t.Errorf("after %v there is %v", want, left)
		}
	}
}

// TestBackupBesideAWriter is what `bramble backup` does: another process has the database open and writes. What was
// acknowledged before is in the copy, and the writer goes on.
func TestBackupBesideAWriter(t *testing.T) {
	t.Parallel()
	path, backup := filepath.Join(t.TempDir(), "state.db"), filepath.Join(t.TempDir(), "backup.db")
	writer := emulated.Self()
	writer.Env = append(os.Environ(), crashEnv+"="+path)
	out, err := writer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { writer.Process.Kill(); writer.Wait() }()
	said := bufio.NewScanner(out)
	acknowledged := map[string]string{} // object -> its latest revision
	for n := 0; n < 500; n++ {
		if !said.Scan() {
			t.Fatal("the writer ended")
		}
		f := strings.Fields(said.Text())
		if len(f) != 4 || f[0] != "ok" {
			t.Fatal(said.Text())
		}
		if strings.HasPrefix(f[1], "/configmaps/") {
			acknowledged[f[1]] = f[2]
		}
	}
	if err := store.BackupFile(t.Context(), path, backup); err != nil {
		t.Fatal(err)
	}
	if !said.Scan() || !strings.HasPrefix(said.Text(), "ok ") {
		t.Errorf("after the backup the writer said %q", said.Text())
	}
	s := configMaps(openDB(t, func(o *store.Options) { o.Path = backup }))
	for key, was := range acknowledged {
		var cm corev1.ConfigMap
		if err := s.Get(t.Context(), key, storage.GetOptions{}, &cm); err != nil {
			t.Fatalf("acknowledged, and not in the backup: %s: %v", key, err)
		}
		older := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{ResourceVersion: was}}
		if (storage.APIObjectVersioner{}).CompareResourceVersion(&cm, older) < 0 {
			t.Fatalf("%s is at revision %s, acknowledged at %s", key, cm.ResourceVersion, was)
		}
	}
}

func TestOpenBadFiles(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good.db")
	db := openDB(t, func(o *store.Options) { o.Path = good })
	fill(t, configMaps(db), 300)
	db.Close()
	content, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(b []byte) []byte) []byte { return f(append([]byte(nil), content...)) }
	tests := []struct {
		name    string
		content []byte
		is      error
		says    string
	}{
		{"text", []byte("this is not a database, but a letter\n"), store.ErrForeign, "bramble restore"},
		{"another program's", change(func(b []byte) []byte { copy(b[68:], "XXXX"); return b }), store.ErrForeign, "bramble restore"},
		{"a newer version's", change(func(b []byte) []byte { b[63] = 9; return b }), store.ErrForeign, "newer"},
		{"cut off", change(func(b []byte) []byte { return b[:len(b)/2] }), store.ErrCorrupt, "bramble restore"},
		{"overwritten", change(func(b []byte) []byte {
			for i := 4096; i < 40960; i++ {
				b[i] = 'x'
			}
			return b
		}), store.ErrCorrupt, "bramble restore"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state.db")
			if err := os.WriteFile(path, tt.content, 0o600); err != nil {
				t.Fatal(err)
			}
			db, err := store.Open(t.Context(), store.Options{Path: path})
			if err == nil {
				db.Close()
				t.Fatal("opened")
			}
			if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("error: %v", err)
			}
			if err := store.Restore(t.Context(), path, filepath.Join(t.TempDir(), "new.db"), nothing); err == nil {
				t.Error("restored from it")
			}
			if after, _ := os.ReadFile(path); string(after) != string(tt.content) {
				t.Error("the file was changed")
			}
		})
	}
}

// TestDamagedValue: a value that the card has changed is found by its checksum, and only it is lost.
func TestDamagedValue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db := openDB(t, func(o *store.Options) { o.Path = path })
	s := configMaps(db)
	set(t, s, key(1), map[string]string{"key": strings.Repeat("well-kept ", 3)})
	set(t, s, key(2), configMap(2).Data)
	db.Close()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := strings.Index(string(content), "well-kept")
	if i < 0 {
		t.Fatal("the value is not there as it is")
	}
	content[i] = 'h'
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	again := openDB(t, func(o *store.Options) { o.Path = path })
	err = configMaps(again).Get(t.Context(), key(1), storage.GetOptions{}, &corev1.ConfigMap{})
	if err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("error: %v", err)
	}
	if data(t, configMaps(again), key(2)) == nil {
		t.Error("the other value is lost too")
	}
	if err := again.Backup(t.Context(), path+".backup"); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("backup: %v", err)
	}
}

func TestSecondProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	openDB(t, func(o *store.Options) { o.Path = path })
	if _, err := store.Open(t.Context(), store.Options{Path: path}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("error: %v", err)
	}
}

// TestReopenWhileForking: a child that is just being started has a copy of every descriptor, the lock's too; what is
// closed can be opened again nevertheless.
func TestReopenWhileForking(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					exec.Command("/bin/true").Run()
				}
			}
		})
	}
	rounds := 200
	if testing.Short() {
		rounds = 10
	}
	for i := range rounds {
		db, err := store.Open(t.Context(), store.Options{Path: path})
		if err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
