// Package endpointslice keeps, for each Service with a selector, EndpointSlices
// that list its pods. How slices are filled and balanced is upstream's own
// library; this package feeds it from the caches.
//
// Invariant: only slices labelled as managed by this controller are touched;
// nothing is written when no endpoint changed.
//
//	l := endpointslice.New(endpointslice.Inputs{...})
//	l.Run(ctx)
package endpointslice

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	library "k8s.io/endpointslice"
	libraryutil "k8s.io/endpointslice/util"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

const (
	managedBy   = "endpointslice-controller.k8s.io"
	maxPerSlice = 100
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client         kubernetes.Interface
	Events         record.EventRecorder
	Services       *cache.Cache[corev1.Service]
	Pods           *cache.Cache[corev1.Pod]
	Nodes          *cache.Cache[corev1.Node]
	EndpointSlices *cache.Cache[discoveryv1.EndpointSlice]
	Log            *slog.Logger
}

type controller struct {
	Inputs
	reconciler *library.Reconciler
	// tracker knows the generations of the slices that were written, because
	// the library writes them itself.
	tracker  *libraryutil.EndpointSliceTracker
	triggers *libraryutil.TriggerTimeTracker
}

// New makes the controller.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in, tracker: libraryutil.NewEndpointSliceTracker(), triggers: libraryutil.NewTriggerTimeTracker()}
	c.reconciler = library.NewReconciler(in.Client, nodeLister{in.Nodes}, maxPerSlice, c.tracker, nil, in.Events, managedBy,
		library.WithPreferSameTrafficDistributionEnabled(true))
	l := loop.New("endpointslice-controller", in.Log, c.reconcile)
	loop.Watch(l, in.Services, loop.Self)
	loop.Watch(l, in.Pods, func(change cache.Change[corev1.Pod]) []loop.Key { return ServicesOf(in.Services, change) })
	loop.Watch(l, in.EndpointSlices, c.keysOfSlice)
	return l
}

// ServicesOf gives the Services whose endpoints a change of a pod may concern.
func ServicesOf(services *cache.Cache[corev1.Service], change cache.Change[corev1.Pod]) []loop.Key {
	key := libraryutil.GetPodUpdateProjectionKey(object(change.Old), object(change.New))
	if key == nil {
		return nil
	}
	var keys []loop.Key
	for _, service := range services.List(key.Namespace, nil) {
		if len(service.Spec.Selector) == 0 {
			continue
		}
		selector := labels.SelectorFromSet(service.Spec.Selector)
		if selector.Matches(key.Labels) || (key.OldLabels != nil && selector.Matches(key.OldLabels)) {
			keys = append(keys, loop.KeyOf(service))
		}
	}
	return keys
}

// object turns a nil pod into a nil interface.
func object(pod *corev1.Pod) any {
	if pod == nil {
		return nil
	}
	return pod
}

func managed(slice *discoveryv1.EndpointSlice) bool {
	return slice.Labels[discoveryv1.LabelManagedBy] == managedBy
}

func (c *controller) keysOfSlice(change cache.Change[discoveryv1.EndpointSlice]) []loop.Key {
	var keys []loop.Key
	for _, slice := range []*discoveryv1.EndpointSlice{change.Old, change.New} {
		if slice == nil || !managed(slice) {
			continue
		}
		if change.New == nil {
			c.tracker.HandleDeletion(slice)
		}
		if name := slice.Labels[discoveryv1.LabelServiceName]; name != "" {
			keys = append(keys, loop.Key{Namespace: slice.Namespace, Name: name})
		}
	}
	return keys
}

func (c *controller) reconcile(_ context.Context, key loop.Key) error {
	service, ok := c.Services.Get(key.Namespace, key.Name)
	if !ok {
		c.triggers.DeleteService(key.Namespace, key.Name)
		c.reconciler.DeleteService(key.Namespace, key.Name)
		c.tracker.DeleteService(key.Namespace, key.Name)
		return nil // the slices go with their owner
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName || service.Spec.Selector == nil || service.DeletionTimestamp != nil {
		return nil
	}
	selected := c.Pods.List(service.Namespace, labels.SelectorFromSet(service.Spec.Selector))
	ours := labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service.Name, discoveryv1.LabelManagedBy: managedBy})
	var slices []*discoveryv1.EndpointSlice
	for _, slice := range c.EndpointSlices.List(service.Namespace, ours) {
		if slice.DeletionTimestamp == nil {
			slices = append(slices, relabelled(slice, service))
		}
	}
	if c.tracker.StaleSlices(service, slices) {
		return loop.ErrNotSeen
	}
	changed := c.triggers.ComputeEndpointLastChangeTriggerTime(key.Namespace, service, selected)
	err := c.reconciler.Reconcile(logr.Discard(), service, selected, slices, changed)
	switch {
	case err == nil, apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause), apierrors.IsNotFound(err):
		return nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		return err
	}
	c.Events.Eventf(service, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices",
		"Error updating Endpoint Slices for Service %s/%s: %v", service.Namespace, service.Name, err)
	return fmt.Errorf("update slices: %w", err)
}

// relabelled makes the library write a slice of a Service that has become headless, or is no longer: it compares all labels but that
// which says so, and whoever serves Services passes over a slice with it. Any label that the Service lacks makes it see a difference.
func relabelled(slice *discoveryv1.EndpointSlice, service *corev1.Service) *discoveryv1.EndpointSlice {
	const seen = "endpointslice.bramble.dev/headless" // in no slice that is written
	_, marked := slice.Labels[corev1.IsHeadlessService]
	if headless := service.Spec.ClusterIP == "" || service.Spec.ClusterIP == corev1.ClusterIPNone; marked == headless {
		return slice
	}
	out := slice.DeepCopy()
	out.Labels[seen] = ""
	return out
}

// nodeLister shows the nodes' cache as the library wants it.
type nodeLister struct{ nodes *cache.Cache[corev1.Node] }

var _ listers.NodeLister = nodeLister{}

func (l nodeLister) List(selector labels.Selector) ([]*corev1.Node, error) {
	return l.nodes.List("", selector), nil
}

func (l nodeLister) Get(name string) (*corev1.Node, error) {
	if node, ok := l.nodes.Get("", name); ok {
		return node, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "nodes"}, name)
}
