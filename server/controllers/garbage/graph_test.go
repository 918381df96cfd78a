package garbage

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// An owner that was made after the list was read, and that the API has named since, is not gone because the list lacks it: it is asked
// about. One that was observed before is.
func TestAListOlderThanAnAnswer(t *testing.T) {
	var asked []types.UID
	g := newGraph(func(w work) { asked = append(asked, w.uid) })
	things := schema.GroupResource{Group: "example.com", Resource: "things"}
	named := func(uid types.UID, owners ...types.UID) *metav1.PartialObjectMetadata {
		m := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: string(uid), Namespace: "ns", UID: uid}}
		for _, o := range owners {
			m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Thing", Name: string(o), UID: o})
		}
		return m
	}
	g.observe(things, named("old"))
	g.observe(schema.GroupResource{Resource: "configmaps"}, named("of-old", "old"))
	g.observe(schema.GroupResource{Resource: "configmaps"}, named("of-new", "new"))
	g.confirm(identity{resource: things, namespace: "ns", name: "new", uid: "new"}, named("new"))
	g.observe(things, named("old"))

	asked = nil
	g.only(things, map[types.UID]bool{})
	slices.Sort(asked)
	if want := []types.UID{"new", "of-old"}; !slices.Equal(asked, want) {
		t.Errorf("asked about %v, want %v", asked, want)
	}
	if n, _, _ := g.get("new"); n.gone {
		t.Error("what the API has just named counts as gone")
	}
	g.observe(things, named("new"))
	g.only(things, map[types.UID]bool{})
	if n, _, _ := g.get("new"); !n.gone {
		t.Error("what was observed and is in no list any more is there yet")
	}
}
