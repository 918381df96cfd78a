package store_test

import (
	"errors"
	"slices"
	"testing"

	"bramble.dev/server/store"
)

func keys(objects []store.KeyValue) (k []string) {
	for _, o := range objects {
		k = append(k, o.Key)
	}
	return k
}

// A mirror is told of everything, and knows of what resource it is when somebody asks.
func TestMirror(t *testing.T) {
	m := store.NewMirror("here", store.Options{})
	defer m.Close()
	value := []byte("v")
	m.Replace([]store.KeyValue{{"/registry/pods/a/x", 3, value}, {"/registry/podtemplates/a/y", 4, value}, {"/registry/example.com/things/z", 5, value}}, 7)
	f, err := m.Follow("/registry/pods")
	if err != nil {
		t.Fatal(err)
	}
	if got := keys(f.Snapshot()); !slices.Equal(got, []string{"/registry/pods/a/x"}) {
		t.Errorf("pods: %q", got)
	}
	m.Apply([]store.Event{{Key: "/registry/pods/a/new", Revision: 8, Value: value}, {Key: "/registry/example.com/things/z", Revision: 9}, {Key: "/registry/pods/a/x", Revision: 10}}, 10)
	events, err := f.Next(t.Context())
	if err != nil || len(events) != 2 || events[0].Key != "/registry/pods/a/new" || events[0].Previous != nil || events[1].Value != nil || string(events[1].Previous) != "v" {
		t.Errorf("events %+v, %v", events, err)
	}
	for prefix, want := range map[string]int{"/registry/pods": 1, "/registry/podtemplates": 1, "/registry/example.com/things": 0, "/registry/nothing": 0} {
		if n, _ := m.Stand(prefix); n != want {
			t.Errorf("%s: %d objects, want %d", prefix, n, want)
		}
	}
	if m.Remembers("/registry/podtemplates", 9) || !m.Remembers("/registry/podtemplates", 10) || !m.Remembers("/registry/pods", 7) {
		t.Error("what is remembered begins when somebody asked for the resource")
	}
	if err := m.Until(t.Context(), 10); err != nil {
		t.Error(err)
	}
	reached := make(chan error, 1)
	go func() { reached <- m.Until(t.Context(), 12) }()
	m.Apply(nil, 11)
	m.Apply(nil, 12)
	if err := <-reached; err != nil {
		t.Error(err)
	}
}

// After a gap nobody goes on as if there were none.
func TestMirrorReplaced(t *testing.T) {
	m := store.NewMirror("here", store.Options{})
	defer m.Close()
	m.Replace([]store.KeyValue{{"/registry/pods/a/x", 3, []byte("v")}}, 7)
	f, err := m.Follow("/registry/pods")
	if err != nil {
		t.Fatal(err)
	}
	m.Replace([]store.KeyValue{{"/registry/pods/a/y", 8, []byte("v")}}, 9)
	if _, err := f.Next(t.Context()); !errors.Is(err, store.ErrTooOld) {
		t.Errorf("a follower from before is told %v", err)
	}
	f, err = m.Follow("/registry/pods")
	if err != nil {
		t.Fatal(err)
	}
	if got := keys(f.Snapshot()); !slices.Equal(got, []string{"/registry/pods/a/y"}) || f.Revision() != 9 {
		t.Errorf("%q at %d", got, f.Revision())
	}
}
