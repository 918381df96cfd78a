package clients

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// heard is what an informer's handlers were told, by name.
type heard struct {
	mu                      sync.Mutex
	added, updated, deleted map[string]int
	resynced                int
}

func (h *heard) handler() cache.ResourceEventHandlerFuncs {
	h.added, h.updated, h.deleted = map[string]int{}, map[string]int{}, map[string]int{}
	count := func(m map[string]int, o any) {
		if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = gone.Obj
		}
		m[o.(metav1.Object).GetName()]++
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { h.mu.Lock(); defer h.mu.Unlock(); count(h.added, o) },
		UpdateFunc: func(old, o any) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if old.(metav1.Object).GetResourceVersion() == o.(metav1.Object).GetResourceVersion() {
				h.resynced++
				return
			}
			count(h.updated, o)
		},
		DeleteFunc: func(o any) { h.mu.Lock(); defer h.mu.Unlock(); count(h.deleted, o) },
	}
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprintf("added %v, updated %v, deleted %v", h.added, h.updated, h.deleted)
}

func (h *heard) eventually(t *testing.T, want string) {
	t.Helper()
	eventually(t, 40*time.Second, "the informer hears "+want, func(context.Context) error {
		if got := h.String(); got != want {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
}

// TestInformers: shared informers, typed and dynamic, keep up over a restart of the server: each change is told once, those
// that another made while nobody watched among them, and nothing that did not change.
func TestInformers(t *testing.T) {
	s := start(t)
	defineGardens(t, s)
	ns := s.namespace(t, "informers")
	ctx, cancel := context.WithCancel(t.Context())
	maps := s.client(t).CoreV1().ConfigMaps(ns)
	plots := must(dynamic.NewForConfig(s.config(t)))(t)
	labelled := func(name string) *corev1.ConfigMap {
		m := configMap(name, nil)
		m.Labels = map[string]string{"mine": "yes"}
		return m
	}
	must(maps.Create(ctx, labelled("a"), metav1.CreateOptions{}))(t)
	must(maps.Create(ctx, labelled("b"), metav1.CreateOptions{}))(t)
	must(plots.Resource(gardenGVR).Namespace(ns).Create(ctx, garden("g", "leek"), metav1.CreateOptions{}))(t)

	typed := informers.NewSharedInformerFactoryWithOptions(s.client(t), time.Second, informers.WithNamespace(ns),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = "mine=yes" }))
	untyped := dynamicinformer.NewFilteredDynamicSharedInformerFactory(plots, 0, ns, nil)
	var ofMaps, ofGardens heard
	must(typed.Core().V1().ConfigMaps().Informer().AddEventHandler(ofMaps.handler()))(t)
	must(untyped.ForResource(gardenGVR).Informer().AddEventHandler(ofGardens.handler()))(t)
	typed.StartWithContext(ctx)
	untyped.Start(ctx.Done())
	defer func() { cancel(); typed.Shutdown(); untyped.Shutdown() }()
	for what, ok := range typed.WaitForCacheSync(ctx.Done()) {
		if !ok {
			t.Fatalf("%v did not sync", what)
		}
	}
	ofMaps.eventually(t, "added map[a:1 b:1], updated map[], deleted map[]")
	ofGardens.eventually(t, "added map[g:1], updated map[], deleted map[]")

	must(maps.Patch(ctx, "a", types.MergePatchType, []byte(`{"data":{"k":"v"}}`), metav1.PatchOptions{}))(t)
	ofMaps.eventually(t, "added map[a:1 b:1], updated map[a:1], deleted map[]")

	s.stop()
	s.run()
	// These come to informers that are waiting to try again: they hear of them by listing.
	must(maps.Create(ctx, labelled("c"), metav1.CreateOptions{}))(t)
	if err := maps.Delete(ctx, "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	must(plots.Resource(gardenGVR).Namespace(ns).Patch(ctx, "g", types.MergePatchType, []byte(`{"spec":{"beds":2}}`), metav1.PatchOptions{}))(t)
	ofMaps.eventually(t, "added map[a:1 b:1 c:1], updated map[a:1], deleted map[b:1]")
	ofGardens.eventually(t, "added map[g:1], updated map[g:1], deleted map[]")

	// And once more by watching.
	must(maps.Patch(ctx, "c", types.MergePatchType, []byte(`{"metadata":{"labels":{"mine":"no"}}}`), metav1.PatchOptions{}))(t)
	if err := plots.Resource(gardenGVR).Namespace(ns).Delete(ctx, "g", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ofMaps.eventually(t, "added map[a:1 b:1 c:1], updated map[a:1], deleted map[b:1 c:1]")
	ofGardens.eventually(t, "added map[g:1], updated map[g:1], deleted map[g:1]")

	list := must(typed.Core().V1().ConfigMaps().Lister().ConfigMaps(ns).List(labels.Everything()))(t)
	if len(list) != 1 || list[0].Name != "a" || list[0].Data["k"] != "v" {
		t.Errorf("the lister has %v", list)
	}
	if g := untyped.ForResource(gardenGVR).Informer().GetStore().List(); len(g) != 0 {
		t.Errorf("the dynamic lister has %v", g[0].(*unstructured.Unstructured).Object)
	}
	eventually(t, 10*time.Second, "a resync each second", func(context.Context) error {
		ofMaps.mu.Lock()
		defer ofMaps.mu.Unlock()
		if ofMaps.resynced < 2 {
			return fmt.Errorf("%d objects were told again", ofMaps.resynced)
		}
		return nil
	})
}
