package namespace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

// look again this long after something was left.
const lookAgain = time.Second

// atOnce bounds how many resources are emptied side by side.
const atOnce = 4

var podsResource = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client     kubernetes.Interface
	Metadata   metadata.Interface
	Namespaces *cache.Cache[corev1.Namespace]
	Pods       *cache.Cache[corev1.Pod]
	Log        *slog.Logger
}

type controller struct {
	Inputs
	loop *loop.Loop
}

// New makes the controller.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in}
	c.loop = loop.New("namespace-controller", in.Log, c.reconcile)
	loop.Watch(c.loop, in.Namespaces, loop.Self)
	loop.Watch(c.loop, in.Pods, func(change cache.Change[corev1.Pod]) []loop.Key {
		if change.New != nil {
			return nil
		}
		if ns, ok := in.Namespaces.Get("", change.Old.Namespace); !ok || ns.DeletionTimestamp == nil {
			return nil
		}
		return []loop.Key{{Name: change.Old.Namespace}}
	})
	return c.loop
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	if ns, ok := c.Namespaces.Get("", key.Name); !ok || ns.DeletionTimestamp == nil {
		return nil
	}
	client := c.Client.CoreV1().Namespaces()
	ns, err := client.Get(ctx, key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the namespace: %w", err)
	}
	if ns.DeletionTimestamp == nil || len(ns.Spec.Finalizers) == 0 {
		return nil
	}
	if ns.Status.Phase != corev1.NamespaceTerminating {
		ns.Status.Phase = corev1.NamespaceTerminating
		if ns, err = client.UpdateStatus(ctx, ns, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("say that it is terminating: %w", err)
		}
	}
	left := c.empty(ctx, ns.Name)
	if conditions, changed := left.conditions(ns.Status.Conditions, time.Now()); changed {
		ns.Status.Conditions = conditions
		if ns, err = client.UpdateStatus(ctx, ns, metav1.UpdateOptions{}); err != nil {
			return errors.Join(left.err(), fmt.Errorf("write conditions: %w", err))
		}
	}
	if err := left.err(); err != nil {
		return err
	}
	if left.any() {
		c.loop.After(key, lookAgain)
		return nil
	}
	ns.Spec.Finalizers = slices.DeleteFunc(ns.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	if _, err := client.Finalize(ctx, ns, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalize: %w", err)
	}
	return nil
}

// empty deletes what is in a namespace and says what is left.
func (c *controller) empty(ctx context.Context, namespace string) *remains {
	left := newRemains()
	_, lists, err := c.Client.Discovery().ServerGroupsAndResources()
	if err != nil {
		left.discovery = err
	}
	resources, err := deletable(lists)
	if err != nil {
		left.parsing = err
	}
	if slices.Contains(resources, podsResource) {
		stay, err := c.emptyOne(ctx, podsResource, namespace)
		left.add(podsResource, stay, err)
		if left.any() {
			return left
		}
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, gvr := range resources {
		if gvr == podsResource {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			stay, err := c.emptyOne(ctx, gvr, namespace)
			left.add(gvr, stay, err)
			<-slots
		})
	}
	wg.Wait()
	return left
}

// deletable picks the namespaced resources that can be deleted, each once.
func deletable(lists []*metav1.APIResourceList) ([]schema.GroupVersionResource, error) {
	var out []schema.GroupVersionResource
	var errs []error
	seen := map[schema.GroupResource]bool{}
	for _, list := range discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"delete", "list"}}, lists) {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, r := range list.APIResources {
			// The versions of a group show the same objects, the preferred one first;
			// the groups that are left out show those of another.
			gr := schema.GroupResource{Group: gv.Group, Resource: r.Name}
			if r.Namespaced && !seen[gr] && gr.Group != "extensions" && gr.Group != "events.k8s.io" && !strings.Contains(r.Name, "/") {
				seen[gr] = true
				out = append(out, gv.WithResource(r.Name))
			}
		}
	}
	return out, errors.Join(errs...)
}

// emptyOne deletes the objects of one resource; it returns those that stay.
func (c *controller) emptyOne(ctx context.Context, gvr schema.GroupVersionResource, namespace string) (stay []metav1.PartialObjectMetadata, err error) {
	client := c.Metadata.Resource(gvr).Namespace(namespace)
	list, err := client.List(ctx, metav1.ListOptions{})
	if notServed(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", gvr.GroupResource(), err)
	}
	if len(list.Items) == 0 {
		return nil, nil
	}
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	err = client.DeleteCollection(ctx, options, metav1.ListOptions{})
	if notServed(err) {
		err = nil
		for _, item := range list.Items {
			if e := client.Delete(ctx, item.Name, options); e != nil && !apierrors.IsNotFound(e) {
				err = e
			}
		}
	}
	if err != nil {
		return list.Items, fmt.Errorf("delete %s: %w", gvr.GroupResource(), err)
	}
	list, err = client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list %s again: %w", gvr.GroupResource(), err)
	}
	return list.Items, nil
}

func notServed(err error) bool {
	return apierrors.IsMethodNotSupported(err) || apierrors.IsNotFound(err)
}
