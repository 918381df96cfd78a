// Package endpointslicemirroring shows the Endpoints that somebody wrote for a Service without a selector as EndpointSlices, which is
// what nodes read: a database outside the cluster behind a Service's name.
//
// Invariant: only slices labelled as managed by this controller are touched, and each belongs to the Endpoints that it shows; nothing
// is written when nothing changed. Endpoints of a Service with a selector, of a lock, or labelled
// endpointslice.kubernetes.io/skip-mirror=true are not shown.
//
//	l := endpointslicemirroring.New(endpointslicemirroring.Inputs{...})
//	l.Run(ctx)
package endpointslicemirroring

import (
	"context"
	"fmt"
	"log/slog"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

const (
	managedBy = "endpointslicemirroring-controller.k8s.io"
	// election marks Endpoints that serve as a lock and belong to no Service.
	election = "control-plane.alpha.kubernetes.io/leader"
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client         kubernetes.Interface
	Events         record.EventRecorder
	Services       *cache.Cache[corev1.Service]
	Endpoints      *cache.Cache[corev1.Endpoints] //nolint:staticcheck // people still write them
	EndpointSlices *cache.Cache[discoveryv1.EndpointSlice]
	Log            *slog.Logger
}

type controller struct {
	Inputs
	writes loop.Writes
}

// New makes the controller.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in}
	l := loop.New("endpointslicemirroring-controller", in.Log, c.reconcile)
	loop.Watch(l, in.Services, loop.Self)
	loop.Watch(l, in.Endpoints, loop.Self)
	loop.Watch(l, in.EndpointSlices, keysOfSlice)
	return l
}

func keysOfSlice(change cache.Change[discoveryv1.EndpointSlice]) []loop.Key {
	var keys []loop.Key
	for _, s := range []*discoveryv1.EndpointSlice{change.Old, change.New} {
		if s != nil && s.Labels[discoveryv1.LabelManagedBy] == managedBy {
			keys = append(keys, loop.Key{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]})
		}
	}
	return keys
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	if err := c.writes.Settle(ctx, key); err != nil {
		return err
	}
	ours := labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: key.Name, discoveryv1.LabelManagedBy: managedBy})
	present := c.EndpointSlices.List(key.Namespace, ours)
	var wanted []*discoveryv1.EndpointSlice
	if e, ok := c.mirrored(key); ok {
		var dropped int
		if wanted, dropped = show(e); dropped > 0 {
			c.Events.Eventf(e, corev1.EventTypeWarning, "TooManyAddressesToMirror",
				"A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", maxPerSlice, dropped)
		}
	}
	err := c.apply(ctx, key, planOf(present, wanted))
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mirror Endpoints: %w", err)
	}
	return nil
}

// mirrored gives the Endpoints of a key if they are to be shown.
func (c *controller) mirrored(key loop.Key) (*corev1.Endpoints, bool) {
	e, ok := c.Endpoints.Get(key.Namespace, key.Name)
	if !ok || e.DeletionTimestamp != nil || e.Labels[discoveryv1.LabelSkipMirror] == "true" || e.Annotations[election] != "" {
		return nil, false
	}
	service, ok := c.Services.Get(key.Namespace, key.Name)
	return e, ok && service.Spec.Selector == nil
}

// apply makes new slices before it takes old ones away.
func (c *controller) apply(ctx context.Context, key loop.Key, p plan) error {
	client := c.Client.DiscoveryV1().EndpointSlices(key.Namespace)
	for _, s := range p.create {
		made, err := client.Create(ctx, s, metav1.CreateOptions{})
		if err := loop.Wrote(&c.writes, key, c.EndpointSlices, made, err); err != nil {
			return err
		}
	}
	for _, s := range p.update {
		written, err := client.Update(ctx, s, metav1.UpdateOptions{})
		if err := loop.Wrote(&c.writes, key, c.EndpointSlices, written, err); err != nil {
			return err
		}
	}
	for _, s := range p.remove {
		err := client.Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}
