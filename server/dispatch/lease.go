package dispatch

import (
	"context"
	"fmt"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// LeaseDuration is for how long a renewal of a node's Lease is good: the silence that an idle node may keep
// (link.KeepaliveInterval), the time until its sign of life is written down, and as much again.
const LeaseDuration = 90 * time.Second

// leaseInterval is how often a Lease is renewed at most; tests shorten it. A renewal is in the store's volatile class: it
// costs a write to memory, and none to the disk.
var leaseInterval = LeaseDuration / 3

// leasePause spreads the renewals of many nodes, so that no other write waits for a thousand of them.
const leasePause = 10 * time.Millisecond

// keepLeases keeps the Lease of each node, which tells clients of the API when the node was last heard of. Upstream's
// kubelet writes it itself, every 10 seconds; here what the link hears anyway is enough, and the node sends nothing.
func (d *Dispatcher) keepLeases(ctx context.Context) {
	k := leases{d: d, written: map[string]*coordinationv1.Lease{}}
	changes := d.Changes()
	tick := time.NewTicker(leaseInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case name := <-changes:
			k.renew(ctx, name)
		case <-tick.C:
			k.pass(ctx)
		}
	}
}

// leases remembers what was written of each node's Lease, so that a renewal need not read it first. Only one goroutine uses it.
type leases struct {
	d       *Dispatcher
	written map[string]*coordinationv1.Lease
}

// pass renews the Leases of all nodes that were heard of since the last one.
func (k *leases) pass(ctx context.Context) {
	present := map[string]bool{}
	for _, n := range k.d.all() {
		present[n.name] = true
		if k.renew(ctx, n.name) && !sleep(ctx, leasePause) {
			return
		}
	}
	for name := range k.written {
		if !present[name] {
			delete(k.written, name)
		}
	}
}

// renew writes when a node was last heard of, if that is news, and says whether it wrote.
func (k *leases) renew(ctx context.Context, name string) bool {
	n := k.d.node(name)
	node, ok := k.d.cfg.Caches.Nodes().Get("", name)
	if n == nil || !ok {
		return false
	}
	n.mu.Lock()
	heard := n.heard
	n.mu.Unlock()
	if heard.IsZero() {
		return false
	}
	have := k.written[name]
	if have != nil && !have.Spec.RenewTime.Time.Before(heard.Truncate(time.Microsecond)) && owns(node, have) {
		return false
	}
	lease, err := k.write(ctx, node, have, heard)
	if err != nil {
		delete(k.written, name)
		if ctx.Err() == nil && !apierrors.IsNotFound(err) {
			k.d.log.Warn("a node's Lease is not renewed yet", "node", name, "err", err)
		}
		return true
	}
	k.written[name] = lease
	return true
}

// write renews a Lease, or makes it. have is what was written last; nil: the API is asked.
func (k *leases) write(ctx context.Context, node *corev1.Node, have *coordinationv1.Lease, heard time.Time) (*coordinationv1.Lease, error) {
	client := k.d.cfg.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	if have != nil {
		renewed, err := client.Update(ctx, leaseOf(node, have, heard), metav1.UpdateOptions{})
		if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return renewed, wrap(err, "renew the Lease of node %s", node.Name)
		}
	}
	have, err := client.Get(ctx, node.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		made, err := client.Create(ctx, leaseOf(node, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: node.Name}}, heard), metav1.CreateOptions{})
		return made, wrap(err, "create the Lease of node %s", node.Name)
	case err != nil:
		return nil, fmt.Errorf("dispatch: read the Lease of node %s: %w", node.Name, err)
	}
	renewed, err := client.Update(ctx, leaseOf(node, have, heard), metav1.UpdateOptions{})
	return renewed, wrap(err, "renew the Lease of node %s", node.Name)
}

// leaseOf is a Lease as it should be of a node that was heard of at that time.
func leaseOf(node *corev1.Node, have *coordinationv1.Lease, heard time.Time) *coordinationv1.Lease {
	out := have.DeepCopy()
	seconds, at := int32(LeaseDuration/time.Second), metav1.NewMicroTime(heard)
	out.Spec.HolderIdentity, out.Spec.LeaseDurationSeconds = &node.Name, &seconds
	if out.Spec.RenewTime == nil || out.Spec.RenewTime.Time.Before(heard) {
		out.Spec.RenewTime = &at
	}
	if !owns(node, out) {
		out.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
	}
	return out
}

// owns says whether a Lease goes when the node does.
func owns(node *corev1.Node, lease *coordinationv1.Lease) bool {
	return slices.ContainsFunc(lease.OwnerReferences, func(o metav1.OwnerReference) bool { return o.Kind == "Node" && o.UID == node.UID })
}
