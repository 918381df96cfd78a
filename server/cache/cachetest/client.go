package cachetest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/meta/testrestmapper"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	corev1 "k8s.io/api/core/v1"
)

// Client gives a client of this API.
func (a *API) Client() kubernetes.Interface {
	c := fake.NewSimpleClientset()
	c.PrependReactor("*", "*", a.react)
	c.Resources = served
	return c
}

var verbs = metav1.Verbs{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// served is what discovery tells.
var served = []*metav1.APIResourceList{
	{GroupVersion: "v1", APIResources: []metav1.APIResource{
		{Name: "pods", Kind: "Pod", Namespaced: true, Verbs: verbs},
		{Name: "pods/status", Kind: "Pod", Namespaced: true, Verbs: metav1.Verbs{"get", "patch", "update"}},
		{Name: "persistentvolumeclaims", Kind: "PersistentVolumeClaim", Namespaced: true, Verbs: verbs},
		{Name: "configmaps", Kind: "ConfigMap", Namespaced: true, Verbs: verbs},
		{Name: "secrets", Kind: "Secret", Namespaced: true, Verbs: verbs},
		{Name: "replicationcontrollers", Kind: "ReplicationController", Namespaced: true, Verbs: verbs},
		{Name: "serviceaccounts", Kind: "ServiceAccount", Namespaced: true, Verbs: verbs},
		{Name: "namespaces", Kind: "Namespace", Verbs: verbs},
		{Name: "nodes", Kind: "Node", Verbs: verbs},
	}},
	{GroupVersion: "apps/v1", APIResources: []metav1.APIResource{
		{Name: "deployments", Kind: "Deployment", Namespaced: true, Verbs: verbs},
		{Name: "daemonsets", Kind: "DaemonSet", Namespaced: true, Verbs: verbs},
		{Name: "statefulsets", Kind: "StatefulSet", Namespaced: true, Verbs: verbs},
		{Name: "controllerrevisions", Kind: "ControllerRevision", Namespaced: true, Verbs: verbs},
		{Name: "replicasets", Kind: "ReplicaSet", Namespaced: true, Verbs: verbs},
		{Name: "replicasets/status", Kind: "ReplicaSet", Namespaced: true, Verbs: metav1.Verbs{"get", "patch", "update"}},
		{Name: "deployments/status", Kind: "Deployment", Namespaced: true, Verbs: metav1.Verbs{"get", "patch", "update"}},
	}},
	{GroupVersion: "batch/v1", APIResources: []metav1.APIResource{
		{Name: "jobs", Kind: "Job", Namespaced: true, Verbs: verbs},
		{Name: "jobs/status", Kind: "Job", Namespaced: true, Verbs: metav1.Verbs{"get", "patch", "update"}},
		{Name: "cronjobs", Kind: "CronJob", Namespaced: true, Verbs: verbs},
	}},
}

// Metadata gives a client that sees only the metadata of objects.
func (a *API) Metadata() metadata.Interface {
	s := metadatafake.NewTestScheme()
	_ = metav1.AddMetaToScheme(s)
	c := metadatafake.NewSimpleMetadataClient(s)
	c.PrependReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		handled, object, err := a.react(action)
		if err != nil || object == nil {
			return handled, nil, err
		}
		if meta.IsListType(object) {
			list := &metav1.PartialObjectMetadataList{}
			err = meta.EachListItem(object, func(o runtime.Object) error {
				list.Items = append(list.Items, *meta.AsPartialObjectMetadata(accessor(o)))
				return nil
			})
			return handled, list, err
		}
		return handled, meta.AsPartialObjectMetadata(accessor(object)), nil
	})
	return c
}

// react serves one action of the client.
func (a *API) react(action clienttesting.Action) (bool, runtime.Object, error) {
	gr := action.GetResource().GroupResource()
	if gr.Resource == "group" || gr.Resource == "resource" {
		return false, nil, nil // discovery answers by itself
	}
	if gr.Group == "" && gr.Resource == "events" && action.GetVerb() != "create" && action.GetVerb() != "list" && action.GetVerb() != "get" {
		return true, &corev1.Event{}, nil // aggregation is the recorder's business
	}
	object, err := a.serve(gr, action)
	if err == nil && a.Wrote != nil && action.GetVerb() != "get" && action.GetVerb() != "list" {
		a.Wrote(action.GetVerb(), gr, action.GetSubresource(), object)
	}
	return true, object, err
}

func (a *API) serve(gr schema.GroupResource, action clienttesting.Action) (runtime.Object, error) {
	namespace := action.GetNamespace()
	switch act := action.(type) {
	case clienttesting.CreateActionImpl:
		if act.GetSubresource() == "binding" {
			return a.bind(act.GetObject().(*corev1.Binding))
		}
		if act.GetSubresource() == "eviction" {
			return a.remove(gr, nameOf(act.GetObject()), metav1.DeleteOptions{})
		}
		if err := a.refuse("create", gr, act.GetObject()); err != nil {
			return nil, err
		}
		object := act.GetObject().DeepCopyObject()
		if namespace != "" {
			accessor(object).SetNamespace(namespace)
		}
		return a.create(gr, object)
	case clienttesting.UpdateActionImpl:
		if err := a.refuse("update", gr, act.GetObject()); err != nil {
			return nil, err
		}
		return a.update(gr, act.GetSubresource(), act.GetObject())
	case clienttesting.PatchActionImpl:
		return a.patch(gr, types.NamespacedName{Namespace: namespace, Name: act.GetName()}, act)
	case clienttesting.DeleteActionImpl:
		key := types.NamespacedName{Namespace: namespace, Name: act.GetName()}
		if err := a.refuseByKey("delete", gr, key); err != nil {
			return nil, err
		}
		return a.remove(gr, key, act.GetDeleteOptions())
	case clienttesting.DeleteCollectionActionImpl:
		list, err := a.list(gr, action.GetResource(), namespace, act.GetListRestrictions())
		if err != nil {
			return nil, err
		}
		return nil, meta.EachListItem(list, func(o runtime.Object) error {
			_, err := a.remove(gr, nameOf(o), act.GetDeleteOptions())
			return err
		})
	case clienttesting.GetActionImpl:
		a.mu.Lock()
		defer a.mu.Unlock()
		object, err := a.get(gr, types.NamespacedName{Namespace: namespace, Name: act.GetName()})
		if err != nil {
			return nil, err
		}
		return object.DeepCopyObject(), nil
	case clienttesting.ListActionImpl:
		return a.list(gr, action.GetResource(), namespace, act.GetListRestrictions())
	}
	return nil, fmt.Errorf("cachetest does not know %s of %s", action.GetVerb(), gr)
}

func (a *API) refuse(verb string, gr schema.GroupResource, object runtime.Object) error {
	fail := a.failing()
	if fail == nil {
		return nil
	}
	return fail(verb, gr, object)
}

func (a *API) refuseByKey(verb string, gr schema.GroupResource, key types.NamespacedName) error {
	fail := a.failing()
	if fail == nil {
		return nil
	}
	a.mu.Lock()
	object, err := a.get(gr, key)
	a.mu.Unlock()
	if err != nil {
		return err
	}
	return fail(verb, gr, object)
}

func (a *API) bind(b *corev1.Binding) (runtime.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	gr := schema.GroupResource{Resource: "pods"}
	old, err := a.get(gr, nameOf(b))
	if err != nil {
		return nil, err
	}
	pod := old.DeepCopyObject().(*corev1.Pod)
	if pod.Spec.NodeName != "" || pod.DeletionTimestamp != nil || (b.UID != "" && b.UID != pod.UID) {
		return nil, apierrors.NewConflict(gr, b.Name, fmt.Errorf("pod %s is already assigned to node %q", b.Name, pod.Spec.NodeName))
	}
	pod.Spec.NodeName = b.Target.Name
	return a.store(gr, pod).DeepCopyObject(), nil
}

func (a *API) patch(gr schema.GroupResource, key types.NamespacedName, act clienttesting.PatchActionImpl) (runtime.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old, err := a.get(gr, key)
	if err != nil {
		return nil, err
	}
	if a.fail != nil {
		if err := a.fail("patch", gr, old); err != nil {
			return nil, err
		}
	}
	before, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	var after []byte
	switch act.GetPatchType() {
	case types.StrategicMergePatchType:
		after, err = strategicpatch.StrategicMergePatch(before, act.GetPatch(), old)
	case types.MergePatchType:
		after, err = jsonpatch.MergePatch(before, act.GetPatch())
	case types.JSONPatchType:
		var p jsonpatch.Patch
		if p, err = jsonpatch.DecodePatch(act.GetPatch()); err == nil {
			after, err = p.Apply(before)
		}
	default:
		err = fmt.Errorf("cachetest does not know patches of type %s", act.GetPatchType())
	}
	if err != nil {
		return nil, err
	}
	object, err := newLike(old)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(after, object); err != nil {
		return nil, err
	}
	return a.updateLocked(gr, act.GetSubresource(), object)
}

func newLike(object runtime.Object) (runtime.Object, error) {
	kinds, _, err := scheme.Scheme.ObjectKinds(object)
	if err != nil {
		return nil, err
	}
	return scheme.Scheme.New(kinds[0])
}

func (a *API) list(gr schema.GroupResource, gvr schema.GroupVersionResource, namespace string, r clienttesting.ListRestrictions) (runtime.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var items []runtime.Object
	for key, object := range a.objects[gr] {
		if namespace != "" && key.Namespace != namespace {
			continue
		}
		if r.Labels != nil && !r.Labels.Matches(labels.Set(accessor(object).GetLabels())) {
			continue
		}
		items = append(items, object.DeepCopyObject())
	}
	kind, err := mapper().KindFor(gvr)
	if err != nil {
		return nil, err
	}
	kind.Kind += "List"
	list, err := scheme.Scheme.New(kind)
	if err != nil {
		return nil, err
	}
	return list, meta.SetList(list, items)
}

var mapper = sync.OnceValue(func() meta.RESTMapper { return testrestmapper.TestOnlyStaticRESTMapper(scheme.Scheme) })

// All returns the objects of a resource by their names, for checks.
func All[T any](a *API, group, resource string) []*T {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []*T
	for _, object := range a.objects[schema.GroupResource{Group: group, Resource: resource}] {
		out = append(out, any(object.DeepCopyObject()).(*T))
	}
	slices.SortFunc(out, func(x, y *T) int {
		a, b := any(x).(metav1.Object), any(y).(metav1.Object)
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return out
}
