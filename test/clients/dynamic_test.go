package clients

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
)

// TestDynamic: what works without types, on custom resources and on built-in ones.
func TestDynamic(t *testing.T) {
	s := start(t)
	defineGardens(t, s)
	t.Run("verbs", func(t *testing.T) { dynamicVerbs(t, s) })
	t.Run("validation", func(t *testing.T) { dynamicValidation(t, s) })
	t.Run("apply", func(t *testing.T) { dynamicApply(t, s) })
	t.Run("discovery", func(t *testing.T) { discovered(t, s) })
	t.Run("scale", func(t *testing.T) { scaled(t, s) })
	t.Run("metadata", func(t *testing.T) { metadataOnly(t, s) })
}

func garden(name, crop string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": gardens.String(), "kind": "Garden", "metadata": map[string]any{"name": name}, "spec": map[string]any{"crop": crop}}}
}

func at(t *testing.T, o *unstructured.Unstructured, path ...string) any {
	t.Helper()
	v, _, err := unstructured.NestedFieldNoCopy(o.Object, path...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func dynamicVerbs(t *testing.T, s *server) {
	ctx, ns := t.Context(), s.namespace(t, "dynamic")
	client := must(dynamic.NewForConfig(s.config(t)))(t).Resource(gardenGVR).Namespace(ns)
	w := must(client.Watch(ctx, metav1.ListOptions{FieldSelector: "spec.crop=leek"}))(t)
	defer w.Stop()
	leek := garden("a", "leek")
	leek.Object["spec"].(map[string]any)["unknown"] = "pruned"
	leek.Object["status"] = map[string]any{"phase": "not by this way"}
	created := must(client.Create(ctx, leek, metav1.CreateOptions{}))(t)
	if at(t, created, "spec", "beds") != int64(1) || at(t, created, "spec", "unknown") != nil || at(t, created, "status") != nil {
		t.Errorf("created: %v", created.Object)
	}
	must(client.Create(ctx, garden("b", "kale"), metav1.CreateOptions{}))(t)
	if list := must(client.List(ctx, metav1.ListOptions{FieldSelector: "spec.crop=kale"}))(t); len(list.Items) != 1 || list.Items[0].GetName() != "b" {
		t.Errorf("those of kale: %v", list.Items)
	}
	created.Object["status"] = map[string]any{"phase": "sown", "beds": int64(1)}
	created = must(client.UpdateStatus(ctx, created, metav1.UpdateOptions{}))(t)
	if at(t, created, "status", "phase") != "sown" || created.GetGeneration() != 1 {
		t.Errorf("after the status: %v", created.Object)
	}
	patched := must(client.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"crop":"kale"}}`), metav1.PatchOptions{}))(t)
	if patched.GetGeneration() != 2 {
		t.Errorf("generation %d after a change of the spec", patched.GetGeneration())
	}
	if _, err := client.Patch(ctx, "a", types.StrategicMergePatchType, []byte(`{}`), metav1.PatchOptions{}); !apierrors.IsUnsupportedMediaType(err) {
		t.Errorf("a strategic patch of a custom resource: %v", err)
	}
	for i, want := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted} {
		if e := next(t, w); e.Type != want {
			t.Errorf("event %d is %s, want %s", i, e.Type, want)
		}
	}
	if err := client.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	if list := must(client.List(ctx, metav1.ListOptions{}))(t); len(list.Items) != 0 || list.GetKind() != "GardenList" {
		t.Errorf("after all were deleted: %v", list)
	}
}

func dynamicValidation(t *testing.T, s *server) {
	ctx, ns := t.Context(), s.namespace(t, "validation")
	client := must(dynamic.NewForConfig(s.config(t)))(t).Resource(gardenGVR).Namespace(ns)
	huge := garden("huge", "")
	huge.Object["spec"].(map[string]any)["beds"] = int64(101)
	_, err := client.Create(ctx, huge, metav1.CreateOptions{})
	var status apierrors.APIStatus
	if !apierrors.IsInvalid(err) || !errors.As(err, &status) || len(status.Status().Details.Causes) != 2 {
		t.Errorf("no crop and too many beds: %v", err)
	}
	odd := garden("odd", "leek")
	odd.Object["spec"].(map[string]any)["unknown"] = "x"
	if _, err := client.Create(ctx, odd, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}); !apierrors.IsBadRequest(err) {
		t.Errorf("an unknown field, strictly: %v", err)
	}
}

func dynamicApply(t *testing.T, s *server) {
	ctx, ns := t.Context(), s.namespace(t, "apply")
	client := must(dynamic.NewForConfig(s.config(t)))(t).Resource(gardenGVR).Namespace(ns)
	with := func(tools ...any) *unstructured.Unstructured {
		g := garden("a", "leek")
		g.Object["spec"].(map[string]any)["tools"] = tools
		return g
	}
	must(client.Apply(ctx, "a", with("rake", "hoe"), metav1.ApplyOptions{FieldManager: "one"}))(t)
	must(client.Apply(ctx, "a", with("spade"), metav1.ApplyOptions{FieldManager: "two"}))(t)
	g := must(client.Apply(ctx, "a", with("hoe"), metav1.ApplyOptions{FieldManager: "one"}))(t)
	tools, _, _ := unstructured.NestedStringSlice(g.Object, "spec", "tools")
	slices.Sort(tools)
	if fmt.Sprint(tools) != "[hoe spade]" {
		t.Errorf("a set that two apply holds %v", tools)
	}
	if _, err := client.Apply(ctx, "a", garden("a", "kale"), metav1.ApplyOptions{FieldManager: "two"}); !apierrors.IsConflict(err) {
		t.Errorf("another's crop: %v", err)
	}
}

// discovered: a cached discovery and its mapper, as kubectl has them, find names, short names and categories.
func discovered(t *testing.T, s *server) {
	client := must(discovery.NewDiscoveryClientForConfig(s.config(t)))(t)
	if v := must(client.ServerVersion())(t); v.Major != "1" || v.Minor != "37" {
		t.Errorf("version %+v", v)
	}
	groups, lists, err := client.ServerGroupsAndResources()
	if err != nil || len(groups) < 15 {
		t.Fatalf("%d groups: %v", len(groups), err)
	}
	if found := discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "watch", "delete"}}, lists); len(found) < 20 {
		t.Errorf("only %d groups with what a garbage collector needs", len(found))
	}
	mapper := restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client)), client, nil)
	for name, want := range map[string]schema.GroupVersionResource{
		"deploy": {Group: "apps", Version: "v1", Resource: "deployments"}, "svc": {Version: "v1", Resource: "services"}, "gdn": gardenGVR, "garden": gardenGVR,
	} {
		if got, err := mapper.ResourceFor(schema.GroupVersionResource{Resource: name}); err != nil || got != want {
			t.Errorf("%s is %v: %v", name, got, err)
		}
	}
	m := must(mapper.RESTMapping(gardenKind.GroupKind()))(t)
	if m.Resource != gardenGVR || m.Scope.Name() != "namespace" {
		t.Errorf("Garden is %v, %s", m.Resource, m.Scope.Name())
	}
	paths := must(client.OpenAPIV3().Paths())(t)
	if _, there := paths["apis/"+gardens.String()]; !there || paths["api/v1"] == nil {
		t.Errorf("OpenAPI v3 has no document of the custom resource, or none of core: %d paths", len(paths))
	}
	document := must(client.OpenAPISchema())(t)
	if len(document.GetDefinitions().GetAdditionalProperties()) < 500 {
		t.Errorf("OpenAPI v2 has %d definitions", len(document.GetDefinitions().GetAdditionalProperties()))
	}
}

// scaled: the scale client of autoscalers, which asks discovery what a resource's scale is.
func scaled(t *testing.T, s *server) {
	ctx, ns := t.Context(), s.namespace(t, "scaled")
	config := s.config(t)
	client := must(discovery.NewDiscoveryClientForConfig(config))(t)
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client))
	scales := must(scale.NewForConfig(config, mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(client)))(t).Scales(ns)
	must(must(dynamic.NewForConfig(config))(t).Resource(gardenGVR).Namespace(ns).Create(ctx, garden("web", "leek"), metav1.CreateOptions{}))(t)
	must(s.client(t).AppsV1().Deployments(ns).Create(ctx, deployment("web"), metav1.CreateOptions{}))(t)
	for _, what := range []schema.GroupResource{{Group: "apps", Resource: "deployments"}, gardenGVR.GroupResource()} {
		eventually(t, 10*time.Second, "scale of "+what.String(), func(ctx context.Context) error {
			got, err := scales.Get(ctx, what, "web", metav1.GetOptions{})
			if err != nil {
				return err
			}
			got.Spec.Replicas = 7
			_, err = scales.Update(ctx, what, got, metav1.UpdateOptions{})
			return err
		})
		if got := must(scales.Get(ctx, what, "web", metav1.GetOptions{}))(t); got.Spec.Replicas != 7 {
			t.Errorf("%s has the scale %+v", what, got)
		}
		must(scales.Patch(ctx, what.WithVersion("v1"), "web", types.MergePatchType, []byte(`{"spec":{"replicas":0}}`), metav1.PatchOptions{}))(t)
	}
}

// metadataOnly: lists and watches of metadata alone, as the garbage collector of others asks for them.
func metadataOnly(t *testing.T, s *server) {
	ctx, ns := t.Context(), s.namespace(t, "metadata")
	must(must(dynamic.NewForConfig(s.config(t)))(t).Resource(gardenGVR).Namespace(ns).Create(ctx, garden("a", "leek"), metav1.CreateOptions{}))(t)
	m := configMap("a", map[string]string{"k": "v"})
	must(s.client(t).CoreV1().ConfigMaps(ns).Create(ctx, m, metav1.CreateOptions{}))(t)
	client := must(metadata.NewForConfig(s.config(t)))(t)
	for _, gvr := range []schema.GroupVersionResource{gardenGVR, {Version: "v1", Resource: "configmaps"}} {
		r := client.Resource(gvr).Namespace(ns)
		if one := must(r.Get(ctx, "a", metav1.GetOptions{}))(t); one.Name != "a" {
			t.Errorf("%s: %+v", gvr.Resource, one)
		}
		w := must(r.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=a"}))(t)
		if e := next(t, w); e.Type != watch.Added || e.Object.(*metav1.PartialObjectMetadata).Name != "a" {
			t.Errorf("%s: the watch says %s %v", gvr.Resource, e.Type, e.Object)
		}
		must(r.Patch(ctx, "a", types.MergePatchType, []byte(`{"metadata":{"labels":{"x":"y"}}}`), metav1.PatchOptions{}))(t)
		if e := next(t, w); e.Type != watch.Modified || e.Object.(*metav1.PartialObjectMetadata).Labels["x"] != "y" {
			t.Errorf("%s: the watch says %s %v", gvr.Resource, e.Type, e.Object)
		}
		w.Stop()
	}
}
