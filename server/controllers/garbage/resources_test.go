package garbage

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/record"

	"bramble.dev/server/cache/cachetest"
)

// offer is a discovery that tells what a test wants.
type offer struct {
	discovery.DiscoveryInterface
	groups []*metav1.APIGroup
	lists  []*metav1.APIResourceList
}

func (o *offer) ServerGroupsAndResources() ([]*metav1.APIGroup, []*metav1.APIResourceList, error) {
	return o.groups, slices.Clone(o.lists), nil
}

func list(gv string, resources ...metav1.APIResource) *metav1.APIResourceList {
	for i := range resources {
		resources[i].Namespaced = true
		resources[i].Verbs = metav1.Verbs{"delete", "get", "list", "watch"}
	}
	return &metav1.APIResourceList{GroupVersion: gv, APIResources: resources}
}

// TestDiscoverInAnyOrder: clients get the versions of aggregated discovery in random order.
func TestDiscoverInAnyOrder(t *testing.T) {
	sets := metav1.APIResource{Name: "replicasets", Kind: "ReplicaSet"}
	v1, old := list("apps/v1", sets), list("apps/v1beta2", sets)
	groups := []*metav1.APIGroup{{Name: "apps", Versions: []metav1.GroupVersionForDiscovery{{GroupVersion: "apps/v1"}, {GroupVersion: "apps/v1beta2"}}}}
	want := schema.GroupResource{Group: "apps", Resource: "replicasets"}
	for _, lists := range [][]*metav1.APIResourceList{{v1, old}, {old, v1}} {
		var k kinds
		now, err := k.discover(&offer{groups: groups, lists: lists}, nil)
		if followed := slices.Collect(maps.Keys(now.followed)); err != nil || !slices.Equal(followed, []schema.GroupResource{want}) {
			t.Errorf("followed are %v, %v", followed, err)
		}
		if gvr, err := k.version(want); err != nil || gvr.Version != "v1" {
			t.Errorf("asked for in %v, %v", gvr, err)
		}
		if o, err := k.find("apps/v1beta2", "ReplicaSet"); err != nil || o.resource != want {
			t.Errorf("an old reference leads to %v, %v", o, err)
		}
		var noKind *meta.NoKindMatchError // which is no news (package loop)
		if _, err := k.find("example.com/v1", "Widget"); !errors.As(err, &noKind) || !strings.HasPrefix(err.Error(), "unable to get REST mapping for example.com/v1/Widget") {
			t.Errorf("a kind that is gone: %v", err)
		}
	}
}

// TestNotServedIsNotGone: an owner whose resource is served no more keeps what it owns, and when it is served again an
// owner that went meanwhile does not.
func TestNotServedIsNotGone(t *testing.T) {
	api := cachetest.New()
	client := api.Client()
	_, lists, err := client.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	o := &offer{DiscoveryInterface: client.Discovery(), lists: lists}
	c := New(Inputs{
		Metadata: api.Metadata(), Discovery: o, Events: record.NewFakeRecorder(100),
		Source: api.Source, Prefix: cachetest.Prefix, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	y := &yard{t: t, api: api, client: client.CoreV1().ConfigMaps("ns")}
	y.add("a")
	y.add("b", "a")
	y.add("c")
	y.add("d", "c")
	c.refresh(ctx, &wg)
	wg.Go(func() { c.loop.Run(ctx) })
	all := []string{"a<0", "b<1", "c<0", "d<1"}
	y.expect(all...)

	o.lists = []*metav1.APIResourceList{}
	for _, l := range lists {
		if l.GroupVersion != "v1" {
			o.lists = append(o.lists, l)
		}
	}
	c.refresh(ctx, &wg)
	time.Sleep(50 * time.Millisecond) // what it must not do would be done by now
	y.expect(all...)
	y.delete("a", metav1.DeletePropagationBackground)

	o.lists = lists
	c.refresh(ctx, &wg)
	y.expect("c<0", "d<1")
}
