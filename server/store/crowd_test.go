package store_test

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"bramble.dev/server/store"
)

// countingCodec counts what is decoded.
type countingCodec struct {
	runtime.Codec
	decoded atomic.Int64
	held    chan struct{} // if any, decoding waits until it is closed
}

func (c *countingCodec) Decode(data []byte, gvk *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	c.decoded.Add(1)
	if c.held != nil {
		<-c.held
	}
	return c.Codec.Decode(data, gvk, into)
}

// plainObject is what an event tells of, whether or not others are told of it too.
func plainObject(e watch.Event) runtime.Object {
	if o, ok := e.Object.(runtime.CacheableObject); ok {
		return o.GetObject()
	}
	return e.Object
}

// TestSharedChanges: a change is decoded once, and encoded once in each form, however many watch; and each is told what it would be told
// alone.
func TestSharedChanges(t *testing.T) {
	t.Parallel()
	const watchers = 20
	db := openDB(t)
	codec := &countingCodec{Codec: protobuf}
	watched := db.Storage(store.Resource{Prefix: "/configmaps", Codec: codec, New: newConfigMap})
	since := strconv.FormatInt(db.Revision(), 10)
	begin := func(pred storage.SelectionPredicate) watch.Interface {
		w, err := watched.Watch(t.Context(), "/configmaps", storage.ListOptions{ResourceVersion: since, Recursive: true, Predicate: pred})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
		return w
	}
	var all []watch.Interface
	for range watchers {
		all = append(all, begin(storage.Everything))
	}
	writer := configMaps(db)
	want := changeConfigMaps(t, writer)
	told := make([][]watch.Event, watchers)
	for n, w := range all {
		told[n] = drain(t, w, len(want))
		if got := said(told[n]); !slices.Equal(got, want) {
			t.Errorf("watcher %d was told %q, want %q", n, got, want)
		}
	}
	if n := codec.decoded.Load(); n != int64(len(want)) {
		t.Errorf("%d changes for %d watchers: decoded %d times", len(want), watchers, n)
	}
	encoded := 0
	for i := range want {
		for _, form := range []runtime.Identifier{"name", "version"} {
			var first []byte
			for n := range told {
				var buf bytes.Buffer
				err := told[n][i].Object.(runtime.CacheableObject).CacheEncode(form, func(o runtime.Object, w io.Writer) error {
					encoded++
					m := o.(*corev1.ConfigMap)
					_, err := io.WriteString(w, map[runtime.Identifier]string{"name": m.Name, "version": m.ResourceVersion}[form])
					m.Name = "changed by an encoder"
					return err
				}, &buf)
				if err != nil {
					t.Fatal(err)
				}
				if n == 0 {
					first = buf.Bytes()
				}
				if !bytes.Equal(buf.Bytes(), first) || len(first) == 0 {
					t.Errorf("event %d as %q: watcher %d is sent %q, the first %q", i, form, n, buf.Bytes(), first)
				}
			}
		}
	}
	if encoded != 2*len(want) {
		t.Errorf("%d changes in two forms for %d watchers: encoded %d times", len(want), watchers, encoded)
	}
	// Two that select see what appears and disappears for them.
	for range 2 {
		red := said(drain(t, begin(selectRed), 3))
		if want := []string{"ADDED a red", "DELETED a red", "ADDED c red"}; !slices.Equal(red, want) {
			t.Errorf("told %q of the red, want %q", red, want)
		}
	}
}

// TestLoneWatcher: who watches alone has objects of its own.
func TestLoneWatcher(t *testing.T) {
	t.Parallel()
	db := openDB(t)
	s := configMaps(db)
	var all []watch.Interface
	for range 3 {
		w, err := s.Watch(t.Context(), "/configmaps", storage.ListOptions{ResourceVersion: strconv.FormatInt(db.Revision(), 10), Recursive: true, Predicate: storage.Everything})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
	}
	for _, w := range all[1:] {
		w.Stop()
		for range w.ResultChan() { // until it has left
		}
	}
	want := changeConfigMaps(t, s)
	for _, e := range drain(t, all[0], len(want)) {
		if _, own := e.Object.(*corev1.ConfigMap); !own {
			t.Errorf("%s: told of a %T", e.Type, e.Object)
		}
	}
}

// TestSlowDecoding: while a change takes long to decode, as by a webhook that converts it, watches begin and end.
func TestSlowDecoding(t *testing.T) {
	t.Parallel()
	db := openDB(t)
	codec := &countingCodec{Codec: protobuf, held: make(chan struct{})}
	s := db.Storage(store.Resource{Prefix: "/configmaps", Codec: codec, New: newConfigMap})
	begin := func() watch.Interface {
		w, err := s.Watch(t.Context(), "/configmaps", storage.ListOptions{ResourceVersion: strconv.FormatInt(db.Revision(), 10), Recursive: true, Predicate: storage.Everything})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	first, second := begin(), begin()
	want := changeConfigMaps(t, configMaps(db))
	for codec.decoded.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	other := begin()
	other.Stop()
	for range other.ResultChan() { // until it has ended
	}
	close(codec.held)
	for _, w := range []watch.Interface{first, second} {
		if got := said(drain(t, w, len(want))); !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	}
}

// changeConfigMaps creates, updates and deletes some, and gives what a watcher is told.
func changeConfigMaps(t *testing.T, s storage.Interface) []string {
	color := func(name, color string) {
		err := s.GuaranteedUpdate(t.Context(), "/configmaps/ns/"+name, &corev1.ConfigMap{}, true, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
			m := obj.(*corev1.ConfigMap)
			m.Name, m.Namespace, m.Labels = name, "ns", map[string]string{"color": color}
			return m, nil
		}), nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	color("a", "red")
	color("b", "blue")
	color("a", "blue")
	color("c", "red")
	if err := s.Delete(t.Context(), "/configmaps/ns/b", &corev1.ConfigMap{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	return []string{"ADDED a red", "ADDED b blue", "MODIFIED a blue", "ADDED c red", "DELETED b blue"}
}

// drain waits until a watcher holds so many events, and takes them: until then all watchers hold what they share.
func drain(t *testing.T, w watch.Interface, n int) (events []watch.Event) {
	for end := time.Now().Add(10 * time.Second); len(w.ResultChan()) < n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d events, want %d", len(w.ResultChan()), n)
		}
	}
	for range n {
		events = append(events, <-w.ResultChan())
	}
	return events
}

func said(events []watch.Event) (lines []string) {
	for _, e := range events {
		m := plainObject(e).(*corev1.ConfigMap)
		lines = append(lines, fmt.Sprint(e.Type, " ", m.Name, " ", m.Labels["color"]))
	}
	return lines
}
