package aggregator

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	listers "k8s.io/kube-aggregator/pkg/client/listers/apiregistration/v1"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"bramble.dev/server/api/informer"
)

// running asks other servers while there are APIServices that name them. It listens to the APIServices.
type running struct {
	c           *Config
	ctx         context.Context
	cancel      context.CancelFunc
	factory     *informer.Factory
	apiServices listers.APIServiceLister
	together    aggregated.ResourceManager
	listening   []listening
	wait        sync.WaitGroup

	mu      sync.RWMutex
	remotes map[string]*remote // by the name of their APIService
	groups  map[string]http.Handler
}

// listening is an informer that is shared with others, and what was told to listen to it.
type listening struct {
	informer cache.SharedIndexInformer
	handler  cache.ResourceEventHandlerRegistration
}

func (c *Config) start() (*running, error) {
	ctx, cancel := context.WithCancel(context.Background())
	f, kept := follow(ctx, c.Store, c.Prefix, c.Logger, informer.Keep(&apiregistrationv1.APIService{}), informer.Hold())
	r := &running{
		c: c, ctx: ctx, cancel: cancel, factory: f, apiServices: listers.NewAPIServiceLister(kept.GetIndexer()),
		together: c.Discovery.WithSource(aggregated.AggregatorSource), remotes: map[string]*remote{}, groups: map[string]http.Handler{},
	}
	if _, err := kept.AddEventHandler(r); err != nil {
		cancel()
		return nil, fmt.Errorf("aggregated APIs: %w", err)
	}
	for _, i := range []cache.SharedIndexInformer{c.Informers.Core().V1().Services().Informer(), c.Informers.Discovery().V1().EndpointSlices().Informer()} {
		h, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: r.moved, UpdateFunc: func(_, o any) { r.moved(o) }, DeleteFunc: r.moved})
		if err != nil {
			r.Stop()
			return nil, fmt.Errorf("aggregated APIs: %w", err)
		}
		r.listening = append(r.listening, listening{i, h})
	}
	f.Start(nil)
	return r, nil
}

// Stop ends the questions to other servers and takes back what discovery announced. Requests under way are answered.
func (r *running) Stop() {
	r.cancel()
	for _, l := range r.listening {
		if err := l.informer.RemoveEventHandler(l.handler); err != nil {
			r.c.Logger.Error("an informer kept its handler", "err", err)
		}
	}
	r.factory.Wait()
	r.wait.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, m := range r.remotes {
		r.forget(name, m)
	}
	for g := range r.groups {
		r.c.Groups.RemoveGroup(g)
	}
}

// current waits until everything that the store holds has been taken in.
func (r *running) current(ctx context.Context) error {
	return r.factory.Current(ctx, &apiregistrationv1.APIService{})
}

func (r *running) OnAdd(o any, _ bool) { r.change(o.(*apiregistrationv1.APIService), false) }
func (r *running) OnUpdate(_, o any)   { r.change(o.(*apiregistrationv1.APIService), false) }
func (r *running) OnDelete(o any)      { r.change(o.(*apiregistrationv1.APIService), true) }

// change makes, changes or removes the remote of an APIService. A change of the status, which comes from here, changes nothing.
func (r *running) change(a *apiregistrationv1.APIService, gone bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.remotes[a.Name]
	switch {
	case gone || a.Spec.Service == nil:
		if old != nil {
			r.forget(a.Name, old)
		}
		if !gone && !settled(a) {
			r.wait.Go(func() { r.settle(a.Name) })
		}
	case old == nil || old.uid != a.UID || !equality.Semantic.DeepEqual(old.spec, a.Spec):
		m := newRemote(r, a)
		if old != nil {
			old.stop()
			m.succeed(old)
		}
		r.remotes[a.Name] = m
		m.announce()
		r.wait.Go(m.run)
	}
	r.announceGroup(a.Spec.Group)
}

// settled tells whether an APIService without a Service is said to be available. One that named a Service before says what was found
// of that.
func settled(a *apiregistrationv1.APIService) bool {
	have, want := helper.GetAPIServiceConditionByType(a, apiregistrationv1.Available), helper.NewLocalAvailableAPIServiceCondition()
	return have != nil && have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message
}

// settle says that an APIService without a Service is available. Who writes it meanwhile has it settled anew.
func (r *running) settle(name string) {
	if err := r.tell(r.ctx, name, helper.NewLocalAvailableAPIServiceCondition()); err != nil && !apierrors.IsConflict(err) {
		r.c.Logger.Warn("an APIService's status was not written", "apiService", name, "err", err)
	}
}

// tell writes the condition into the status of an APIService, unless it is there, or the APIService is gone.
func (r *running) tell(ctx context.Context, name string, c apiregistrationv1.APIServiceCondition) error {
	old, err := r.apiServices.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	a := old.DeepCopy()
	c.Type, c.LastTransitionTime = apiregistrationv1.Available, metav1.Now()
	helper.SetAPIServiceCondition(a, c)
	if equality.Semantic.DeepEqual(a.Status, old.Status) {
		return nil
	}
	_, err = r.c.Client.APIServices().UpdateStatus(ctx, a, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) || ctx.Err() != nil {
		return nil
	}
	return err
}

func (r *running) forget(name string, m *remote) {
	m.stop()
	delete(r.remotes, name)
	if !m.builtIn {
		r.together.RemoveGroupVersion(metav1.GroupVersion(m.gv))
	}
}

// announceGroup writes the document of a group of which another server has a version: all that APIServices say of the group, the most
// preferred version first.
func (r *running) announceGroup(group string) {
	if r.c.BuiltIn(group) {
		return
	}
	mine := false
	for _, m := range r.remotes {
		mine = mine || m.gv.Group == group
	}
	if !mine {
		if r.groups[group] != nil {
			delete(r.groups, group)
			r.c.Groups.RemoveGroup(group)
		}
		return
	}
	all, err := r.apiServices.List(labels.Everything())
	if err != nil {
		return // a list of what lies in memory has no error
	}
	all = slices.DeleteFunc(all, func(a *apiregistrationv1.APIService) bool { return a.Spec.Group != group })
	doc := metav1.APIGroup{Name: group}
	for _, a := range helper.SortedByGroupAndVersion(all)[0] {
		gv := schema.GroupVersion{Group: group, Version: a.Spec.Version}
		doc.Versions = append(doc.Versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version})
	}
	doc.PreferredVersion = doc.Versions[0]
	r.groups[group] = discovery.NewAPIGroupHandler(legacyscheme.Codecs, doc)
	r.c.Groups.AddGroup(doc)
}

// handler is what answers below /apis/<group>, or nil when that is no other server's.
func (r *running) handler(path []string) http.Handler {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(path) == 1 {
		return r.groups[path[0]]
	}
	if m := r.remotes[path[1]+"."+path[0]]; m != nil && !m.builtIn {
		return m
	}
	return nil
}

// moved has those asked again whose Service or its endpoints have changed.
func (r *running) moved(o any) {
	var namespace, name string
	switch o := o.(type) {
	case *corev1.Service:
		namespace, name = o.Namespace, o.Name
	case *discoveryv1.EndpointSlice:
		namespace, name = o.Namespace, o.Labels[discoveryv1.LabelServiceName]
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, m := range r.remotes {
		if m.spec.Service.Namespace == namespace && m.spec.Service.Name == name {
			m.ask()
		}
	}
}
