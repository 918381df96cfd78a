package store_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	"pgregory.net/rapid"

	"bramble.dev/server/store"
)

// TestModel runs random operations on the store and on a map, which must agree: what is read, listed by pages or at an
// earlier revision, and watched with and without a selector, over restarts, with hardly any value kept in memory and
// volatile writes among the durable ones.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("/dev/shm", "bramble-model") // it commits thousands of times
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		m := &model{t: rt, path: filepath.Join(dir, "state.db"), now: map[string]object{}, then: map[string]map[string]object{}}
		m.open()
		defer func() { m.db.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"create": m.create, "update": m.update, "delete": m.delete, "conflict": m.conflict,
			"pages": m.pages, "exact": m.exact, "reopen": m.reopen, "": m.check,
		})
		m.endWatches()
	})
}

type object struct{ rv, text, color string }

type model struct {
	t    *rapid.T
	path string
	db   *store.DB
	s    storage.Interface

	now   map[string]object            // name -> object
	then  map[string]map[string]object // revision -> the objects at it
	order []string                     // the revisions in then

	all, red         watch.Interface
	wantAll, wantRed []string
}

func (m *model) open() {
	db, err := store.Open(m.t.Context(), store.Options{
		Path: m.path, CacheBytes: 300, VolatileBytes: 1500, FlushInterval: time.Nanosecond, FirstRevision: 1, Reserve: 20,
		Fatal: func(err error) { m.t.Fatal(err) },
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.db = db
	m.s = db.Storage(store.Resource{Prefix: "/configmaps", Codec: protobuf, New: newConfigMap,
		Volatile: func(_, new runtime.Object) bool { return new.(*corev1.ConfigMap).Data["volatile"] != "" }})
	m.then, m.order = map[string]map[string]object{}, nil
	m.remember(strconv.FormatInt(db.Revision(), 10))
	m.all = m.watch(storage.Everything)
	m.red = m.watch(selectRed)
}

var selectRed = storage.SelectionPredicate{
	Label: labels.SelectorFromSet(labels.Set{"color": "red"}), Field: fields.Everything(), GetAttrs: storage.DefaultNamespaceScopedAttr}

func (m *model) watch(p storage.SelectionPredicate) watch.Interface {
	w, err := m.s.Watch(m.t.Context(), "/configmaps", storage.ListOptions{ResourceVersion: m.order[0], Recursive: true, Predicate: p})
	if err != nil {
		m.t.Fatal(err)
	}
	return w
}

func (m *model) remember(rv string) {
	m.then[rv] = maps.Clone(m.now)
	m.order = append(m.order, rv)
}

// changed notes a write and what watches should say of it.
func (m *model) changed(name string, before, after object, rv string) {
	event := func(had, has bool, o object) []string {
		switch {
		case had && has:
			return []string{fmt.Sprint("MODIFIED ", name, " ", rv, " ", after.text)}
		case has:
			return []string{fmt.Sprint("ADDED ", name, " ", rv, " ", after.text)}
		case had:
			return []string{fmt.Sprint("DELETED ", name, " ", rv, " ", before.text)}
		}
		return nil
	}
	m.wantAll = append(m.wantAll, event(before.rv != "", after.rv != "", after)...)
	m.wantRed = append(m.wantRed, event(before.color == "red", after.color == "red", after)...)
	if after.rv != "" {
		m.now[name] = after
	} else {
		delete(m.now, name)
	}
	m.remember(rv)
	m.expect(m.all, &m.wantAll)
	m.expect(m.red, &m.wantRed)
}

// expect reads what a watch should have said by now.
func (m *model) expect(w watch.Interface, want *[]string) {
	for _, s := range *want {
		select {
		case e := <-w.ResultChan():
			cm, ok := plainObject(e).(*corev1.ConfigMap)
			if !ok {
				m.t.Fatalf("watch: %v", e)
			}
			if got := fmt.Sprint(e.Type, " ", cm.Name, " ", cm.ResourceVersion, " ", cm.Data["text"]); got != s {
				m.t.Fatalf("watch: %q, want %q", got, s)
			}
		case <-time.After(10 * time.Second):
			m.t.Fatalf("watch: nothing, want %q", s)
		}
	}
	*want = nil
}

func (m *model) endWatches() {
	for _, w := range []watch.Interface{m.all, m.red} {
		w.Stop()
		for e := range w.ResultChan() {
			m.t.Fatalf("watch: %v, want nothing", e)
		}
	}
}

var names = rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "a.b", "a-b"})

func draw(t *rapid.T) (name, text, color string, volatile string) {
	size := rapid.SampledFrom([]int{0, 10, 100, 700, 5000}).Draw(t, "size")
	return names.Draw(t, "name"), fmt.Sprintf("%0*d", size, rapid.Uint16().Draw(t, "text")),
		rapid.SampledFrom([]string{"red", "blue"}).Draw(t, "color"), rapid.SampledFrom([]string{"", "", "yes"}).Draw(t, "volatile")
}

func named(name, text, color, volatile string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", Labels: map[string]string{"color": color}},
		Data:       map[string]string{"text": text, "volatile": volatile},
	}
}

func path(name string) string { return "/configmaps/ns/" + name }

func (m *model) create(t *rapid.T) {
	name, text, color, volatile := draw(t)
	var out corev1.ConfigMap
	err := m.s.Create(t.Context(), path(name), named(name, text, color, volatile), &out, 0)
	before, exists := m.now[name]
	if storage.IsExist(err) != exists || !exists && err != nil {
		t.Fatalf("create: %v, exists: %v", err, exists)
	}
	if !exists {
		m.changed(name, before, object{out.ResourceVersion, text, color}, out.ResourceVersion)
	}
}

func (m *model) update(t *rapid.T) {
	name, text, color, volatile := draw(t)
	before, exists := m.now[name]
	var out corev1.ConfigMap
	err := m.s.GuaranteedUpdate(t.Context(), path(name), &out, false, nil, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		if got := obj.(*corev1.ConfigMap); got.Data["text"] != before.text || got.ResourceVersion != before.rv {
			t.Fatalf("update of %s at %s, want %s", got.Data["text"], got.ResourceVersion, before.rv)
		}
		return named(name, text, color, volatile), nil
	}), nil)
	if storage.IsNotFound(err) == exists || exists && err != nil {
		t.Fatalf("update: %v, exists: %v", err, exists)
	}
	if exists && out.ResourceVersion != before.rv {
		m.changed(name, before, object{out.ResourceVersion, text, color}, out.ResourceVersion)
	}
}

func (m *model) delete(t *rapid.T) {
	name := names.Draw(t, "name")
	before, exists := m.now[name]
	var out corev1.ConfigMap
	err := m.s.Delete(t.Context(), path(name), &out, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{})
	if storage.IsNotFound(err) == exists || exists && err != nil {
		t.Fatalf("delete: %v, exists: %v", err, exists)
	}
	if exists {
		m.changed(name, before, object{}, out.ResourceVersion)
	}
}

// conflict is an update whose condition does not hold.
func (m *model) conflict(t *rapid.T) {
	name := names.Draw(t, "name")
	rv := "0"
	err := m.s.GuaranteedUpdate(t.Context(), path(name), &corev1.ConfigMap{}, true, &storage.Preconditions{ResourceVersion: &rv},
		storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) { return obj, nil }), nil)
	if !storage.IsInvalidObj(err) {
		t.Fatalf("conflict: %v", err)
	}
}

func (m *model) check(t *rapid.T) {
	for _, name := range []string{"a", "f", "a.b"} {
		var cm corev1.ConfigMap
		if err := m.s.Get(t.Context(), path(name), storage.GetOptions{IgnoreNotFound: true}, &cm); err != nil {
			t.Fatal(err)
		}
		if want := m.now[name]; cm.ResourceVersion != want.rv || cm.Data["text"] != want.text {
			t.Fatalf("get %s: %s %s, want %v", name, cm.ResourceVersion, cm.Data["text"], want)
		}
	}
}

func (m *model) pages(t *rapid.T) {
	limit := int64(rapid.IntRange(1, 4).Draw(t, "limit"))
	m.compare(t, m.now, func() (got []corev1.ConfigMap) {
		opts := pageOf(limit, "")
		for {
			var list corev1.ConfigMapList
			if err := m.s.GetList(t.Context(), "/configmaps/ns", opts, &list); err != nil {
				t.Fatal(err)
			}
			got = append(got, list.Items...)
			left := len(m.now) - len(got)
			if list.Continue == "" {
				if left != 0 {
					t.Fatalf("no token, and %d are left", left)
				}
				return got
			}
			if list.RemainingItemCount == nil || *list.RemainingItemCount != int64(left) {
				t.Fatalf("remaining %v, want %d", list.RemainingItemCount, left)
			}
			opts = pageOf(limit, list.Continue)
		}
	})
}

func (m *model) exact(t *rapid.T) {
	rv := rapid.SampledFrom(m.order).Draw(t, "revision")
	m.compare(t, m.then[rv], func() []corev1.ConfigMap {
		var list corev1.ConfigMapList
		err := m.s.GetList(t.Context(), "/configmaps", storage.ListOptions{ResourceVersion: rv,
			ResourceVersionMatch: metav1.ResourceVersionMatchExact, Recursive: true, Predicate: storage.Everything}, &list)
		if err != nil || list.ResourceVersion != rv {
			t.Fatalf("list at %s: at %s, %v", rv, list.ResourceVersion, err)
		}
		return list.Items
	})
}

func (m *model) compare(t *rapid.T, want map[string]object, list func() []corev1.ConfigMap) {
	got := list()
	wanted := slices.Sorted(maps.Keys(want))
	if len(got) != len(wanted) {
		t.Fatalf("%d objects, want %v", len(got), wanted)
	}
	for i, cm := range got {
		if o := want[wanted[i]]; cm.Name != wanted[i] || cm.ResourceVersion != o.rv || cm.Data["text"] != o.text {
			t.Fatalf("%d: %s %s, want %s %v", i, cm.Name, cm.ResourceVersion, wanted[i], o)
		}
	}
}

func (m *model) reopen(t *rapid.T) {
	m.endWatches()
	rev, incarnation := m.db.Revision(), m.db.Incarnation()
	if err := m.db.Close(); err != nil {
		t.Fatal(err)
	}
	m.open()
	if m.db.Revision() != rev || m.db.Incarnation() != incarnation {
		t.Fatalf("reopened at %d, closed at %d", m.db.Revision(), rev)
	}
	m.compare(t, m.now, func() []corev1.ConfigMap {
		var list corev1.ConfigMapList
		if err := m.s.GetList(t.Context(), "/configmaps", pageOf(0, ""), &list); err != nil {
			t.Fatal(err)
		}
		return list.Items
	})
}
