package informer

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"

	"bramble.dev/server/store"
)

type house struct {
	*Factory
	maps storage.Interface
}

// open makes a factory on a real store.
func open(t *testing.T, o store.Options, options ...Option) house {
	t.Helper()
	o.Path = filepath.Join(t.TempDir(), "state.db")
	db, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	prefix := func(gr schema.GroupResource) string { return "/registry/" + gr.Resource }
	f := NewFactory(ctx, db, scheme.Scheme, prefix, slog.New(slog.DiscardHandler), options...)
	t.Cleanup(func() {
		cancel()
		f.Wait()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	codec := serializer.NewCodecFactory(scheme.Scheme).LegacyCodec(corev1.SchemeGroupVersion)
	return house{f, db.Storage(store.Resource{Codec: codec, Prefix: "/configmaps", New: func() runtime.Object { return &corev1.ConfigMap{} }})}
}

func (h house) put(t *testing.T, ns, name, value string) {
	t.Helper()
	key := "/configmaps/" + ns + "/" + name
	err := h.maps.GuaranteedUpdate(t.Context(), key, &corev1.ConfigMap{}, true, nil, storage.SimpleUpdate(func(o runtime.Object) (runtime.Object, error) {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Data: map[string]string{"v": value}}, nil
	}), nil)
	if err != nil {
		t.Fatal(err)
	}
}

func (h house) remove(t *testing.T, ns, name string) {
	t.Helper()
	if err := h.maps.Delete(t.Context(), "/configmaps/"+ns+"/"+name, &corev1.ConfigMap{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// recorder writes down what a handler is told.
type recorder struct{ said chan string }

func (r recorder) OnAdd(o any, initial bool) { r.say("add %s %v", o, initial) }
func (r recorder) OnUpdate(before, o any) {
	r.said <- fmt.Sprintf("update %s %s->%s", o.(*corev1.ConfigMap).Name, before.(*corev1.ConfigMap).Data["v"], o.(*corev1.ConfigMap).Data["v"])
}
func (r recorder) OnDelete(o any) { r.say("delete %s %v", o, o.(*corev1.ConfigMap).Namespace) }

func (r recorder) say(format string, o any, more ...any) {
	r.said <- fmt.Sprintf(format, append([]any{o.(*corev1.ConfigMap).Name}, more...)...)
}

func (r recorder) expect(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for range want {
		select {
		case s := <-r.said:
			got = append(got, s)
		case <-time.After(20 * time.Second):
			t.Fatalf("heard %q, want %q", got, want)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
}

func TestHandlersHearEveryChange(t *testing.T) {
	h := open(t, store.Options{})
	h.put(t, "a", "old", "1")
	r := recorder{make(chan string, 100)}
	i := h.Core().V1().ConfigMaps().Informer()
	reg, err := i.AddEventHandler(r)
	if err != nil {
		t.Fatal(err)
	}
	r.expect(t, "add old true")
	h.put(t, "a", "old", "2")
	h.put(t, "b", "new", "1")
	h.remove(t, "a", "old")
	r.expect(t, "update old 1->2", "add new false", "delete old a")
	if !reg.HasSynced() || !i.HasSynced() {
		t.Error("not synced")
	}
	if err := i.RemoveEventHandler(reg); err != nil {
		t.Error(err)
	}
}

// A handler that is slower than the store's memory hears the difference, not an error.
func TestASlowHandlerHearsTheDifference(t *testing.T) {
	h := open(t, store.Options{RingBytes: 4 << 10})
	for _, n := range []string{"kept", "gone"} {
		h.put(t, "a", n, "1")
	}
	r := recorder{make(chan string)}
	if _, err := h.Core().V1().ConfigMaps().Informer().AddEventHandler(r); err != nil {
		t.Fatal(err)
	}
	r.expect(t, "add gone true")
	// The handler stands still while more happens than is remembered.
	h.remove(t, "a", "gone")
	for n := range 200 {
		h.put(t, "a", "kept", strings.Repeat("x", n+1))
	}
	h.put(t, "a", "last", "1")
	seen := map[string]bool{}
	for end := time.After(20 * time.Second); !seen["delete gone a"] || !seen["add last false"]; {
		select {
		case s := <-r.said:
			seen[s] = true
		case <-end:
			t.Fatalf("heard %v", seen)
		}
	}
}

func TestListersReadTheStore(t *testing.T) {
	for _, kept := range []bool{false, true} {
		t.Run(fmt.Sprintf("kept=%v", kept), func(t *testing.T) {
			var options []Option
			if kept {
				options = append(options, Keep(&corev1.ConfigMap{}))
			}
			h := open(t, store.Options{}, options...)
			for _, n := range []string{"a/x", "a/y", "b/z"} {
				ns, name, _ := strings.Cut(n, "/")
				h.put(t, ns, name, n)
			}
			maps := h.Core().V1().ConfigMaps()
			if err := maps.Informer().AddIndexers(cache.Indexers{"value": func(o any) ([]string, error) { return []string{o.(*corev1.ConfigMap).Data["v"]}, nil }}); err != nil {
				t.Fatal(err)
			}
			lister := maps.Lister()
			for end := time.Now().Add(20 * time.Second); kept && time.Now().Before(end); time.Sleep(time.Millisecond) {
				if all, _ := lister.List(labels.Everything()); len(all) == 3 {
					break
				}
			}
			all, err := lister.List(labels.Everything())
			if err != nil || len(all) != 3 {
				t.Errorf("all: %d, %v", len(all), err)
			}
			if some, err := lister.ConfigMaps("a").List(labels.Everything()); err != nil || len(some) != 2 {
				t.Errorf("of a: %d, %v", len(some), err)
			}
			one, err := lister.ConfigMaps("b").Get("z")
			if err != nil || one.Data["v"] != "b/z" || one.ResourceVersion == "" {
				t.Errorf("one: %+v, %v", one, err)
			}
			if _, err := lister.ConfigMaps("a").Get("z"); !apierrors.IsNotFound(err) {
				t.Errorf("none: %v", err)
			}
			if found, err := maps.Informer().GetIndexer().ByIndex("value", "a/y"); err != nil || len(found) != 1 {
				t.Errorf("by value: %v, %v", found, err)
			}
			if _, err := maps.Informer().GetIndexer().ByIndex("nothing", "x"); err == nil {
				t.Error("an index that does not exist was read")
			}
		})
	}
}

// Who is told of a change of a kept kind finds it in the lister, nobody is told before Start, and Current returns when all have been told.
func TestAKeptKindIsInStepWithItsHandlers(t *testing.T) {
	h := open(t, store.Options{}, Keep(&corev1.ConfigMap{}), Hold())
	h.put(t, "a", "old", "1")
	maps := h.Core().V1().ConfigMaps()
	var heard atomic.Int32
	check := func(o any) {
		heard.Add(1)
		m := o.(*corev1.ConfigMap)
		if got, err := maps.Lister().ConfigMaps(m.Namespace).Get(m.Name); err != nil || got.ResourceVersion != m.ResourceVersion {
			t.Errorf("told of %s at %s, found %v, %v", m.Name, m.ResourceVersion, got, err)
		}
	}
	if _, err := maps.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: check, UpdateFunc: func(_, o any) { check(o) }}); err != nil {
		t.Fatal(err)
	}
	if n := heard.Load(); n != 0 {
		t.Errorf("told of %d before Start", n)
	}
	h.Start(nil)
	for n := range 200 {
		h.put(t, "a", fmt.Sprintf("m%d", n%10), fmt.Sprint(n))
		if err := h.Current(t.Context(), &corev1.ConfigMap{}); err != nil {
			t.Fatal(err)
		}
		if got := heard.Load(); got != int32(n+2) {
			t.Fatalf("told of %d after %d changes", got, n+2)
		}
	}
}

// Upstream's handlers compare what was with what is, to see whether a change is their own: what a kept kind leaves out of one is left out
// of the other.
func TestAKeptKindTellsOfWhatChangedAlone(t *testing.T) {
	h := open(t, store.Options{}, Keep(&corev1.ConfigMap{}))
	write := func(value string) {
		err := h.maps.GuaranteedUpdate(t.Context(), "/configmaps/a/m", &corev1.ConfigMap{}, true, nil, storage.SimpleUpdate(func(runtime.Object) (runtime.Object, error) {
			return &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "m", ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "somebody", Operation: metav1.ManagedFieldsOperationUpdate}}},
				Data:       map[string]string{"v": value},
			}, nil
		}), nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	write("1")
	told := make(chan [2]*corev1.ConfigMap, 1)
	added := make(chan bool, 1)
	if _, err := h.Core().V1().ConfigMaps().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { added <- true },
		UpdateFunc: func(before, o any) { told <- [2]*corev1.ConfigMap{before.(*corev1.ConfigMap), o.(*corev1.ConfigMap)} },
	}); err != nil {
		t.Fatal(err)
	}
	<-added
	write("2")
	both := <-told
	before, now := both[0].DeepCopy(), both[1].DeepCopy()
	if before.Data["v"] != "1" || now.Data["v"] != "2" {
		t.Errorf("told of %v and %v", before.Data, now.Data)
	}
	before.Data, before.ResourceVersion = now.Data, now.ResourceVersion
	if !reflect.DeepEqual(before, now) {
		t.Errorf("more than the value differs: %+v and %+v", before, now)
	}
}
