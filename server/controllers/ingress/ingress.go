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
	"net/netip"
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
		if x.Old != nil && x.New != nil && same(x.Old, x.New) {
			return nil
		}
		return c.everyone()
	})
	return l
}

func (c *controller) everyone() (keys []loop.Key) {
	for _, in := range c.Ingresses.List("", nil) {
		keys = append(keys, loop.Key{Namespace: in.Namespace, Name: in.Name})
	}
	return keys
}

func same(a, b *corev1.Node) bool {
	for _, secure := range []bool{false, true} {
		x, ok := address(a, secure)
		if y, also := address(b, secure); x != y || ok != also {
			return false
		}
	}
	return true
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	if err := c.writes.Settle(ctx, key); err != nil {
		return err
	}
	in, ok := c.Ingresses.Get(key.Namespace, key.Name)
	if !ok || in.DeletionTimestamp != nil {
		return nil
	}
	class, ok := c.Classes.Get("", link.IngressClassOf(in))
	if !ok || class.Spec.Controller != link.IngressController {
		return nil // what its status says is for who serves it to write
	}
	var want []networkingv1.IngressLoadBalancerIngress
	for _, a := range addresses(c.Nodes.List("", nil), len(in.Spec.TLS) > 0) {
		want = append(want, networkingv1.IngressLoadBalancerIngress{IP: a.String()})
	}
	if equality.Semantic.DeepEqual(want, in.Status.LoadBalancer.Ingress) {
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

// addresses are those of the nodes that can serve.
func addresses(nodes []*corev1.Node, secure bool) (out []netip.Addr) {
	for _, n := range nodes {
		if a, ok := address(n, secure); ok {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// address is a node's, if it can serve: it is ready, it is not kept out, and no program of its board has the ports.
func address(n *corev1.Node, secure bool) (a netip.Addr, ok bool) {
	if !entrance.Open(n) || !link.ServesIngresses(n) {
		return a, false
	}
	for _, p := range link.BusyPorts(n) {
		if p.Protocol == corev1.ProtocolTCP && (p.Port == 80 || p.Port == 443 && secure) {
			return a, false
		}
	}
	a = entrance.Address(n, netip.Addr.IsValid)
	return a, a.IsValid()
}
