package revisions

import (
	"context"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	appsv1 "k8s.io/api/apps/v1"

	"bramble.dev/server/cache/cachetest"
	"bramble.dev/server/controllers/loop"
)

var kind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

func owner() *appsv1.StatefulSet {
	return &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "s", Annotations: map[string]string{"kubernetes.io/change-cause": "why"}}}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func revision(version string, number int64) *appsv1.ControllerRevision {
	r := must(New(owner(), kind, new(cachetest.Template("web", version))))
	r = Named(r, "web", DataHash(r, 0))
	r.Revision = number
	return r
}

// The bytes are what upstream's controller stored for this template, as its
// StatefulSets and theirs must find each other's revisions.
func TestARevisionIsUpstreams(t *testing.T) {
	r := revision("1", 1)
	const data = `{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"image":"web:1","name":"c","resources":{}}]}}}}`
	if string(r.Data.Raw) != data {
		t.Errorf("the patch is\n%s\nnot\n%s", r.Data.Raw, data)
	}
	if r.Name != "web-"+r.Labels["controller-revision-hash"] || r.Labels["app"] != "web" || r.Annotations["kubernetes.io/change-cause"] != "why" {
		t.Errorf("name %s, labels %v, annotations %v", r.Name, r.Labels, r.Annotations)
	}
	if got := must(Template(r)); got.Spec.Containers[0].Image != "web:1" {
		t.Errorf("reads back as %v", got)
	}
}

func TestChoose(t *testing.T) {
	one, two, three := revision("1", 1), revision("2", 2), revision("3", 3)
	again := revision("1", 4)
	again.Name = "web-other"
	older := revision("3", 3)
	older.Data.Raw = []byte(`{"spec":{"template":{"$patch":"replace","metadata":{"creationTimestamp":null,"labels":{"app":"web"}},"spec":{"containers":[{"image":"web:3","name":"c","resources":{}}]}}}}`)
	for _, c := range []struct {
		name       string
		all        []*appsv1.ControllerRevision
		want       *appsv1.ControllerRevision
		number     int64
		duplicates int
	}{
		{"none yet", nil, nil, 1, 0},
		{"a new template", []*appsv1.ControllerRevision{one, two}, nil, 3, 0},
		{"nothing changed", []*appsv1.ControllerRevision{one, two, three}, three, 3, 0},
		{"a rollback", []*appsv1.ControllerRevision{one, two, three, revision("4", 4)}, three, 5, 0},
		{"a duplicate", []*appsv1.ControllerRevision{revision("3", 1), three}, three, 3, 1},
		{"another server's spelling", []*appsv1.ControllerRevision{one, older}, older, 3, 0},
		{"another server's spelling is not the newest", []*appsv1.ControllerRevision{older, again}, nil, 5, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Choose(c.all, revision("3", 0))
			if got.Current != c.want || got.Number != c.number || len(got.Duplicates) != c.duplicates {
				t.Errorf("chose %v as %d with %d duplicates", got.Current, got.Number, len(got.Duplicates))
			}
		})
	}
}

func TestOldest(t *testing.T) {
	all := []*appsv1.ControllerRevision{revision("a", 1), revision("b", 2), revision("c", 3), revision("d", 4)}
	used := func(r *appsv1.ControllerRevision) bool { return r.Revision == 2 }
	for excess, want := range map[int][]int64{-1: nil, 0: nil, 1: {1}, 2: {1, 3}, 9: {1, 3, 4}} {
		var got []int64
		for _, r := range Oldest(all, used, excess) {
			got = append(got, r.Revision)
		}
		if !slices.Equal(got, want) {
			t.Errorf("excess %d: %v, want %v", excess, got, want)
		}
	}
}

func TestHistory(t *testing.T) {
	ctx := t.Context()
	api := cachetest.New()
	h := History{Client: api.Client(), Revisions: api.Set(t).ControllerRevisions(), Writes: &loop.Writes{}}
	key := loop.Key{Namespace: "default", Name: "web"}
	set := owner()
	o := Owner{Object: set, Kind: kind, Selector: labels.SelectorFromSet(labels.Set{"app": "web"}), Fresh: func(context.Context) (metav1.Object, error) { return set, nil }}
	// One name is taken by another template, and an earlier revision is nobody's.
	wanted := must(New(set, kind, new(cachetest.Template("web", "2"))))
	hash := func(n *int32) string { return DataHash(wanted, *n) }
	taken := Named(must(New(&appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "x"}}, kind, new(cachetest.Template("web", "other")))), "web", DataHash(wanted, 0))
	orphan := revision("1", 1)
	orphan.OwnerReferences = nil
	for _, r := range []*appsv1.ControllerRevision{taken, orphan} {
		must(h.Client.AppsV1().ControllerRevisions("default").Create(ctx, r, metav1.CreateOptions{}))
	}
	claim := func() []*appsv1.ControllerRevision {
		t.Helper()
		if err := h.Writes.Settle(ctx, key); err != nil {
			t.Fatal(err)
		}
		return must(h.Claim(ctx, o))
	}
	for len(h.Revisions.List("", nil)) < 2 {
		if err := h.Revisions.Seen("2")(ctx); err != nil {
			t.Fatal(err)
		}
	}
	all := claim()
	if len(all) != 1 || all[0].Revision != 1 {
		t.Fatalf("claimed %v", all)
	}
	current, collisions, err := h.Establish(ctx, key, Choose(all, wanted), wanted, hash, new(int32))
	if err != nil || *collisions != 1 || current.Revision != 2 || current.Name != "web-"+DataHash(wanted, 1) {
		t.Fatalf("made %v after %d collisions: %v", current, *collisions, err)
	}
	if again, _, err := h.Establish(ctx, key, Choose(all, wanted), wanted, hash, collisions); err != nil || again.UID != current.UID {
		t.Fatalf("a step whose answer was lost makes another: %v, %v", again, err)
	}
	back := must(New(set, kind, new(cachetest.Template("web", "1"))))
	current, _, err = h.Establish(ctx, key, Choose(claim(), back), back, hash, collisions)
	if err != nil || current.Name != orphan.Name || current.Revision != 3 {
		t.Fatalf("rolled back to %v: %v", current, err)
	}
	if err := h.Delete(ctx, key, claim()[:1]); err != nil {
		t.Fatal(err)
	}
	if all := claim(); len(all) != 1 || all[0].Name != orphan.Name {
		t.Fatalf("%d are left", len(all))
	}
}
