package cachetest

import (
	"bytes"
	"fmt"
	"log/slog"
	"reflect"
	"strconv"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	clienttesting "k8s.io/client-go/testing"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
)

// API keeps objects and the rules of writing them.
type API struct {
	Source *Source
	// Now stamps creation and deletion.
	Now func() time.Time
	// Wrote, if set, is told of every write after it was made.
	Wrote func(verb string, gr schema.GroupResource, subresource string, object runtime.Object)
	// Asked, if set, is told of every write of a Process before it is made or fails; a process makes one after another.
	Asked func(clienttesting.Action)

	mu      sync.Mutex
	fail    func(verb string, gr schema.GroupResource, object runtime.Object) error
	objects map[schema.GroupResource]map[types.NamespacedName]runtime.Object
	uids    int
}

// New makes an empty API.
func New() *API {
	return &API{Source: NewSource(), Now: time.Now, objects: map[schema.GroupResource]map[types.NamespacedName]runtime.Object{}}
}

// SetFail makes a function refuse writes: verb is create, update, patch or delete.
func (a *API) SetFail(fail func(verb string, gr schema.GroupResource, object runtime.Object) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fail = fail
}

func (a *API) failing() func(verb string, gr schema.GroupResource, object runtime.Object) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.fail
}

// Prefix is where the source keeps a resource.
func Prefix(gr schema.GroupResource) string { return "/registry/" + gr.Group + "/" + gr.Resource }

// Set makes caches of this API that are closed with the test.
func (a *API) Set(t testing.TB) *cache.Set {
	set := cache.NewSet(a.Source, Prefix, slog.New(slog.DiscardHandler))
	t.Cleanup(set.Close)
	return set
}

var encoder = protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)

// Encode gives an object as the store keeps it.
func Encode(object runtime.Object) []byte {
	object = object.DeepCopyObject()
	kinds, _, err := scheme.Scheme.ObjectKinds(object)
	if err != nil {
		panic(err)
	}
	object.GetObjectKind().SetGroupVersionKind(kinds[0])
	accessor(object).SetResourceVersion("")
	var out bytes.Buffer
	if err := encoder.Encode(object, &out); err != nil {
		panic(err)
	}
	return out.Bytes()
}

func accessor(object runtime.Object) metav1.Object {
	m, err := meta.Accessor(object)
	if err != nil {
		panic(err)
	}
	return m
}

func nameOf(object runtime.Object) types.NamespacedName {
	m := accessor(object)
	return types.NamespacedName{Namespace: m.GetNamespace(), Name: m.GetName()}
}

func (a *API) get(gr schema.GroupResource, key types.NamespacedName) (runtime.Object, error) {
	object, ok := a.objects[gr][key]
	if !ok {
		return nil, apierrors.NewNotFound(gr, key.Name)
	}
	return object, nil
}

// store keeps an object under a new revision, or removes one that is being
// deleted and that nothing holds back.
func (a *API) store(gr schema.GroupResource, object runtime.Object) runtime.Object {
	m := accessor(object)
	key := nameOf(object)
	path := Prefix(gr) + "/" + key.Name
	if key.Namespace != "" {
		path = Prefix(gr) + "/" + key.Namespace + "/" + key.Name
	}
	if m.GetDeletionTimestamp() != nil && len(m.GetFinalizers()) == 0 && ptrZero(m.GetDeletionGracePeriodSeconds()) {
		m.SetResourceVersion(strconv.FormatInt(a.Source.Delete(path), 10))
		delete(a.objects[gr], key)
		return object
	}
	m.SetResourceVersion(strconv.FormatInt(a.Source.Next(), 10))
	if a.objects[gr] == nil {
		a.objects[gr] = map[types.NamespacedName]runtime.Object{}
	}
	a.objects[gr][key] = object
	a.Source.Put(path, Encode(object))
	return object
}

func ptrZero(p *int64) bool { return p == nil || *p == 0 }

func (a *API) create(gr schema.GroupResource, object runtime.Object) (runtime.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	object = object.DeepCopyObject()
	m := accessor(object)
	a.uids++
	if m.GetName() == "" {
		m.SetName(fmt.Sprintf("%s%05d", m.GetGenerateName(), a.uids))
	}
	if _, exists := a.objects[gr][nameOf(object)]; exists {
		return nil, apierrors.NewAlreadyExists(gr, m.GetName())
	}
	m.SetUID(types.UID(fmt.Sprintf("00000000-0000-0000-0000-%012d", a.uids)))
	m.SetCreationTimestamp(metav1.NewTime(a.Now().Truncate(time.Second)))
	m.SetGeneration(1)
	if pod, ok := object.(*corev1.Pod); ok && pod.Status.Phase == "" {
		pod.Status.Phase = corev1.PodPending
	}
	return a.store(gr, object).DeepCopyObject(), nil
}

func (a *API) update(gr schema.GroupResource, subresource string, object runtime.Object) (runtime.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.updateLocked(gr, subresource, object)
}

func (a *API) updateLocked(gr schema.GroupResource, subresource string, object runtime.Object) (runtime.Object, error) {
	object = object.DeepCopyObject()
	old, err := a.get(gr, nameOf(object))
	if err != nil {
		return nil, err
	}
	m, om := accessor(object), accessor(old)
	if m.GetUID() != "" && m.GetUID() != om.GetUID() {
		return nil, apierrors.NewConflict(gr, m.GetName(), fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", m.GetUID(), om.GetUID()))
	}
	if rv := m.GetResourceVersion(); rv != "" && rv != om.GetResourceVersion() {
		return nil, apierrors.NewConflict(gr, m.GetName(), fmt.Errorf("the object has been modified; please apply your changes to the latest version and try again"))
	}
	m.SetUID(om.GetUID())
	m.SetCreationTimestamp(om.GetCreationTimestamp())
	m.SetDeletionTimestamp(om.GetDeletionTimestamp())
	m.SetDeletionGracePeriodSeconds(om.GetDeletionGracePeriodSeconds())
	m.SetGeneration(om.GetGeneration())
	if subresource == "status" {
		copyField(object, old, "Spec")
		m.SetLabels(om.GetLabels())
		m.SetOwnerReferences(om.GetOwnerReferences())
		if _, service := object.(*corev1.Service); !service { // whose controller writes them together
			m.SetFinalizers(om.GetFinalizers())
		}
	} else {
		copyField(object, old, "Status")
		if !sameField(object, old, "Spec") {
			m.SetGeneration(om.GetGeneration() + 1)
		}
	}
	m.SetResourceVersion(om.GetResourceVersion())
	if equality.Semantic.DeepEqual(object, old) {
		return object, nil // as the real one does, a write of the same is none
	}
	return a.store(gr, object).DeepCopyObject(), nil
}

func field(object runtime.Object, name string) reflect.Value {
	return reflect.ValueOf(object).Elem().FieldByName(name)
}

func copyField(to, from runtime.Object, name string) {
	if f := field(to, name); f.IsValid() {
		f.Set(field(from.DeepCopyObject(), name))
	}
}

func sameField(a, b runtime.Object, name string) bool {
	f := field(a, name)
	return !f.IsValid() || equality.Semantic.DeepEqual(f.Interface(), field(b, name).Interface())
}

func (a *API) remove(gr schema.GroupResource, key types.NamespacedName, o metav1.DeleteOptions) (runtime.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old, err := a.get(gr, key)
	if err != nil {
		return nil, err
	}
	object := old.DeepCopyObject()
	m := accessor(object)
	if o.Preconditions != nil && o.Preconditions.ResourceVersion != nil && *o.Preconditions.ResourceVersion != m.GetResourceVersion() {
		return nil, apierrors.NewConflict(gr, key.Name, fmt.Errorf("Precondition failed: ResourceVersion"))
	}
	if o.Preconditions != nil && o.Preconditions.UID != nil && *o.Preconditions.UID != m.GetUID() {
		return nil, apierrors.NewConflict(gr, key.Name, fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *o.Preconditions.UID, m.GetUID()))
	}
	if o.PropagationPolicy != nil {
		switch *o.PropagationPolicy {
		case metav1.DeletePropagationForeground:
			m.SetFinalizers(append(m.GetFinalizers(), metav1.FinalizerDeleteDependents))
		case metav1.DeletePropagationOrphan:
			m.SetFinalizers(append(m.GetFinalizers(), metav1.FinalizerOrphanDependents))
		}
	}
	grace := int64(0)
	if pod, ok := object.(*corev1.Pod); ok && pod.Spec.NodeName != "" && pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded {
		grace = 30
		if o.GracePeriodSeconds != nil {
			grace = *o.GracePeriodSeconds
		}
	}
	if m.GetDeletionTimestamp() == nil {
		now := metav1.NewTime(a.Now().Add(time.Duration(grace) * time.Second).Truncate(time.Second))
		m.SetDeletionTimestamp(&now)
		m.SetDeletionGracePeriodSeconds(&grace)
	} else if grace < *m.GetDeletionGracePeriodSeconds() {
		m.SetDeletionGracePeriodSeconds(&grace)
	} else if len(m.GetFinalizers()) == len(accessor(old).GetFinalizers()) {
		return object, nil
	}
	return a.store(gr, object).DeepCopyObject(), nil
}
