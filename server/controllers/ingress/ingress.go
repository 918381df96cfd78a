// Package ingress tells in the status of Ingresses at which addresses they are
// served: those of the nodes.
//
// Invariant: only Ingresses of a class that names Bramble's controller are
// written, and only their status. One whose class becomes another's loses what
// was told here, and nothing else.
//
//	l := ingress.New(ingress.Inputs{...})
//	l.Run(ctx)
package ingress

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"bramble.dev/link"
	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/entrance"
	"bramble.dev/server/controllers/loop"
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client    kubernetes.Interface
	Ingresses *cache.Cache[networkingv1.Ingress]
	Classes   *cache.Cache[networkingv1.IngressClass]
	Nodes     *cache.Cache[corev1.Node]
	Pods      *cache.Cache[corev1.Pod]
	Log       *slog.Logger
}

type controller struct {
	Inputs
	writes loop.Writes
}

// New makes the controller.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in}
	l := loop.New("ingress-controller", in.Log, c.reconcile)
	loop.Watch(l, in.Ingresses, loop.Self)
	loop.Watch(l, in.Classes, func(cache.Change[networkingv1.IngressClass]) []loop.Key { return c.everyone() })
	loop.Watch(l, in.Nodes, func(x cache.Change[corev1.Node]) []loop.Key {
		if x.Old != nil && x.New != nil && sameForIngresses(x.Old, x.New) {
			return nil
		}
		return c.everyone()
	})
	loop.Watch(l, in.Pods, func(x cache.Change[corev1.Pod]) []loop.Key {
		if !entrance.HostPortsChanged(x) {
			return nil
		}
		return c.everyone()
	})
	return l
}

func (c *controller) everyone() []loop.Key { return loop.KeysOf(c.Ingresses.List("", nil)) }

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	if err := c.writes.Settle(ctx, key); err != nil {
		return err
	}
	in, ok := c.Ingresses.Get(key.Namespace, key.Name)
	if !ok || in.DeletionTimestamp != nil {
		return nil
	}
	var want []networkingv1.IngressLoadBalancerIngress
	if link.OurIngress(in, c.Classes.Get) {
		want = decide(c.Nodes.List("", nil), c.hostPorts(), len(in.Spec.TLS) > 0)
	} else if len(in.Status.LoadBalancer.Ingress) > 0 {
		live, err := c.Client.NetworkingV1().Ingresses(in.Namespace).Get(ctx, in.Name, metav1.GetOptions{}) // the caches leave out who wrote what
		if apierrors.IsNotFound(err) || err == nil && !told(live) {
			return nil // what its status says is for who serves it to write
		}
		if err != nil {
			return fmt.Errorf("look who wrote the status: %w", err)
		}
	}
	if len(want) == 0 && len(in.Status.LoadBalancer.Ingress) == 0 || equality.Semantic.DeepEqual(want, in.Status.LoadBalancer.Ingress) {
		return nil
	}
	in = in.DeepCopy()
	in.Status.LoadBalancer.Ingress = want
	written, err := c.Client.NetworkingV1().Ingresses(in.Namespace).UpdateStatus(ctx, in, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	c.writes.Add(key, c.Ingresses.Seen(written.ResourceVersion))
	return nil
}

// told says whether an Ingress's status is from here.
func told(in *networkingv1.Ingress) bool {
	return slices.ContainsFunc(in.ManagedFields, func(m metav1.ManagedFieldsEntry) bool { return m.Manager == manager && m.Subresource == "status" })
}

// manager is what the API calls who writes from within the server.
const manager = "bramble"

// hostPorts are those of each node that pods have.
func (c *controller) hostPorts() map[string][]entrance.Port {
	out := map[string][]entrance.Port{}
	for _, p := range c.Pods.List("", nil) {
		if ports := entrance.HostPorts(p); len(ports) > 0 {
			out[p.Spec.NodeName] = append(out[p.Spec.NodeName], ports...)
		}
	}
	return out
}
