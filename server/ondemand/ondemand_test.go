package ondemand

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/kubernetes/scheme"

	"bramble.dev/server/store"
)

// counted is a part that counts how many of it run, and which asks for itself while it stops, as a controller does whose write is
// under way.
type counted struct {
	run *atomic.Int32
	ask func()
}

func (c counted) Stop() {
	c.ask()
	c.run.Add(-1)
}

func TestPartRunsWhileThereIsAnObject(t *testing.T) {
	db, err := store.Open(t.Context(), store.Options{Path: filepath.Join(t.TempDir(), "state.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	maps := db.Storage(store.Resource{
		Codec: serializer.NewCodecFactory(scheme.Scheme).LegacyCodec(corev1.SchemeGroupVersion), Prefix: "/configmaps",
		New: func() runtime.Object { return &corev1.ConfigMap{} },
	})
	put := func(name string) {
		t.Helper()
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if err := maps.Create(t.Context(), "/configmaps/"+name, m, &corev1.ConfigMap{}, 0); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(name string) {
		t.Helper()
		if err := maps.Delete(t.Context(), "/configmaps/"+name, &corev1.ConfigMap{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var run, starts atomic.Int32
	broken := errors.New("not today")
	failing := true
	var p *Part[counted]
	ask := func() {
		if _, ok, err := p.Running(); ok || err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("while it stops: %v, %v", ok, err)
		}
	}
	p = &Part[counted]{Store: db, Prefix: "/registry/configmaps", Failed: func(err error) { t.Errorf("failed: %v", err) }, Start: func() (counted, error) {
		if starts.Add(1); failing {
			return counted{}, broken
		}
		run.Add(1)
		return counted{&run, ask}, nil
	}}

	if _, ok, err := p.Running(); ok || err != nil {
		t.Errorf("without an object: %v, %v", ok, err)
	}
	put("a")
	if _, ok, err := p.Running(); ok || !errors.Is(err, broken) {
		t.Errorf("what cannot start: %v, %v", ok, err)
	}
	failing = false
	for range 3 {
		if _, ok, err := p.Running(); !ok || err != nil {
			t.Errorf("with an object: %v, %v", ok, err)
		}
	}
	if starts.Load() != 2 || run.Load() != 1 {
		t.Errorf("started %d times, %d run", starts.Load(), run.Load())
	}

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); p.Run(ctx) }()
	remove("a")
	put("b") // within what it lingers: it is the same
	remove("b")
	until(t, "the last object is gone and it runs", func() bool { return run.Load() == 0 })
	if starts.Load() != 2 {
		t.Errorf("started %d times, want 2", starts.Load())
	}
	put("c")
	until(t, "an object is there and nothing runs, though nobody asked", func() bool { return run.Load() == 1 })
	cancel()
	<-ended
	if _, ok, err := p.Running(); ok || !errors.Is(err, ErrClosed) || run.Load() != 0 {
		t.Errorf("after the end: %v, %v, %d run", ok, err, run.Load())
	}
}

func until(t *testing.T, not string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(not)
		}
	}
}
