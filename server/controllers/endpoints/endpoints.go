// Package endpoints keeps the older Endpoints object of each Service with a
// selector, for clients that do not read EndpointSlices.
//
// Invariant: the object is in a canonical order, so that equal endpoints give
// equal objects and nothing is written when nothing changed.
//
//	l := endpoints.New(endpoints.Inputs{...})
//	l.Run(ctx)
package endpoints

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	libraryutil "k8s.io/endpointslice/util"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/endpointslice"
	"bramble.dev/server/controllers/loop"
)

const (
	managedByLabel = "endpoints.kubernetes.io/managed-by"
	managedBy      = "endpoint-controller"
	// election marks Endpoints that serve as a lock and belong to no Service.
	election = "control-plane.alpha.kubernetes.io/leader"
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client    kubernetes.Interface
	Events    record.EventRecorder
	Services  *cache.Cache[corev1.Service]
	Pods      *cache.Cache[corev1.Pod]
	Endpoints *cache.Cache[corev1.Endpoints] //nolint:staticcheck // old clients read them
	Log       *slog.Logger
}

type controller struct {
	Inputs
	writes   loop.Writes
	triggers *libraryutil.TriggerTimeTracker
}

// New makes the controller.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in, triggers: libraryutil.NewTriggerTimeTracker()}
	l := loop.New("endpoint-controller", in.Log, c.reconcile)
	loop.Watch(l, in.Services, loop.Self)
	loop.Watch(l, in.Pods, func(change cache.Change[corev1.Pod]) []loop.Key {
		return endpointslice.ServicesOf(in.Services, change)
	})
	loop.Watch(l, in.Endpoints, loop.Self)
	return l
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	if err := c.writes.Settle(ctx, key); err != nil {
		return err
	}
	service, ok := c.Services.Get(key.Namespace, key.Name)
	present, exists := c.Endpoints.Get(key.Namespace, key.Name)
	if !ok {
		c.triggers.DeleteService(key.Namespace, key.Name)
		return c.remove(ctx, present)
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName || service.Spec.Selector == nil || service.DeletionTimestamp != nil {
		return nil
	}
	selected := c.Pods.List(service.Namespace, labels.SelectorFromSet(service.Spec.Selector))
	subsets, truncated := pack(collect(service, selected))
	wanted := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: service.Namespace, Name: service.Name}}
	if exists {
		wanted = present.DeepCopy()
	}
	wanted.Subsets = subsets
	wanted.Labels = wantedLabels(service)
	delete(wanted.Annotations, corev1.EndpointsOverCapacity)
	if truncated {
		metav1.SetMetaDataAnnotation(&wanted.ObjectMeta, corev1.EndpointsOverCapacity, "truncated")
	}
	changed := c.triggers.ComputeEndpointLastChangeTriggerTime(key.Namespace, service, selected)
	if exists && equality.Semantic.DeepEqual(present, wanted) {
		return nil
	}
	delete(wanted.Annotations, corev1.EndpointsLastChangeTriggerTime)
	if !changed.IsZero() {
		metav1.SetMetaDataAnnotation(&wanted.ObjectMeta, corev1.EndpointsLastChangeTriggerTime, changed.UTC().Format(time.RFC3339Nano))
	}
	return c.write(ctx, key, wanted, exists)
}

func wantedLabels(service *corev1.Service) map[string]string {
	out := maps.Clone(service.Labels)
	if out == nil {
		out = map[string]string{}
	}
	delete(out, corev1.IsHeadlessService)
	if ip := service.Spec.ClusterIP; ip == "" || ip == corev1.ClusterIPNone {
		out[corev1.IsHeadlessService] = ""
	}
	out[managedByLabel] = managedBy
	return out
}

// remove deletes the Endpoints of a Service that is gone.
func (c *controller) remove(ctx context.Context, e *corev1.Endpoints) error {
	if e == nil || e.Annotations[election] != "" || e.Labels[managedByLabel] != managedBy {
		return nil
	}
	err := c.Client.CoreV1().Endpoints(e.Namespace).Delete(ctx, e.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(e.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete Endpoints: %w", err)
	}
	return nil
}

func (c *controller) write(ctx context.Context, key loop.Key, e *corev1.Endpoints, exists bool) error {
	client := c.Client.CoreV1().Endpoints(e.Namespace)
	var written *corev1.Endpoints
	var err error
	if exists {
		written, err = client.Update(ctx, e, metav1.UpdateOptions{})
	} else {
		written, err = client.Create(ctx, e, metav1.CreateOptions{})
	}
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
		return err
	case err != nil && exists:
		c.Events.Eventf(e, corev1.EventTypeWarning, "FailedToUpdateEndpoint", "Failed to update endpoint %v/%v: %v", e.Namespace, e.Name, err)
		return fmt.Errorf("update Endpoints: %w", err)
	case err != nil:
		c.Events.Eventf(e, corev1.EventTypeWarning, "FailedToCreateEndpoint", "Failed to create endpoint for service %v/%v: %v", e.Namespace, e.Name, err)
		return fmt.Errorf("create Endpoints: %w", err)
	}
	c.writes.Add(key, c.Endpoints.Seen(written.ResourceVersion))
	return nil
}
