// Package servicecidr makes further ranges of Services' addresses ready, and keeps one that is deleted until no Service has an address
// that only it covers (KEP-1880).
//
// Invariant: a range loses its finalizer only after the allocator has had time to learn that it goes, and if every address in it lies
// in another range, too.
//
//	l := servicecidr.New(servicecidr.Inputs{...})
//	l.Run(ctx)
package servicecidr

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"

	networkingv1 "k8s.io/api/networking/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

const (
	finalizer = "networking.k8s.io/service-cidr-finalizer"
	// grace is how long after its deletion a range stays at least; upstream's number.
	grace = 10 * time.Second
	// allocator is who marks the addresses that Services have.
	allocator = "ipallocator.k8s.io"
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client kubernetes.Interface
	Caches *cache.Set
	Log    *slog.Logger
}

type controller struct {
	Inputs
	loop *loop.Loop

	mu    sync.Mutex
	going map[loop.Key]bool // ranges that are deleted: each address that is freed may let one go
}

// New makes the controller; its keys are ServiceCIDRs. Neither they nor the addresses are kept in memory: both change rarely.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in, going: map[loop.Key]bool{}}
	c.loop = loop.New("service-cidr-controller", in.Log, c.reconcile).OneWorker() // of two ranges that cover an address, one may go
	loop.WatchKeys(c.loop, in.Caches, resource("servicecidrs"), func(key loop.Key, value []byte) []loop.Key {
		return append(c.deleted(), loop.SelfKey(key, value)...) // what is new may cover what another has
	})
	loop.WatchKeys(c.loop, in.Caches, resource("ipaddresses"), func(loop.Key, []byte) []loop.Key { return c.deleted() })
	return c.loop
}

func resource(name string) schema.GroupResource {
	return schema.GroupResource{Group: networkingv1.GroupName, Resource: name}
}

func (c *controller) deleted() (keys []loop.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.going {
		keys = append(keys, key)
	}
	return keys
}

func (c *controller) note(key loop.Key, going bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if going {
		c.going[key] = true
	} else {
		delete(c.going, key)
	}
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	r, err := c.Client.NetworkingV1().ServiceCIDRs().Get(ctx, key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		c.note(key, false)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read ServiceCIDR: %w", err)
	}
	c.note(key, r.DeletionTimestamp != nil)
	if r.DeletionTimestamp != nil {
		return c.release(ctx, key, r)
	}
	if !slices.Contains(r.Finalizers, finalizer) {
		r.Finalizers = append(r.Finalizers, finalizer)
		if r, err = c.Client.NetworkingV1().ServiceCIDRs().Update(ctx, r, metav1.UpdateOptions{}); err != nil {
			return written(err)
		}
	}
	return c.say(ctx, r, metav1.ConditionTrue, "", "Kubernetes Service CIDR is ready")
}

// release lets a range go that is deleted, or says what keeps it.
func (c *controller) release(ctx context.Context, key loop.Key, r *networkingv1.ServiceCIDR) error {
	if !slices.Contains(r.Finalizers, finalizer) {
		return nil
	}
	needed, err := c.needed(ctx, r)
	if err != nil {
		return err
	}
	if needed {
		return c.say(ctx, r, metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating,
			"There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR")
	}
	if left := grace - time.Since(r.DeletionTimestamp.Time); left > 0 {
		c.loop.After(key, left)
		return nil
	}
	r.Finalizers = slices.DeleteFunc(r.Finalizers, func(f string) bool { return f == finalizer })
	_, err = c.Client.NetworkingV1().ServiceCIDRs().Update(ctx, r, metav1.UpdateOptions{})
	return written(err)
}

// needed tells whether a Service has an address that lies in this range and in no other.
func (c *controller) needed(ctx context.Context, r *networkingv1.ServiceCIDR) (bool, error) {
	all, err := c.Client.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list ServiceCIDRs: %w", err)
	}
	var others []netip.Prefix
	for _, o := range all.Items {
		if o.Name != r.Name {
			others = append(others, prefixes(&o)...)
		}
	}
	addresses, err := c.Client.NetworkingV1().IPAddresses().List(ctx, metav1.ListOptions{LabelSelector: labels.Set{networkingv1.LabelManagedBy: allocator}.String()})
	if err != nil {
		return false, fmt.Errorf("list IPAddresses: %w", err)
	}
	mine := prefixes(r)
	for _, a := range addresses.Items {
		ip, err := netip.ParseAddr(a.Name)
		covers := func(p netip.Prefix) bool { return p.Contains(ip) }
		if err == nil && slices.ContainsFunc(mine, covers) && !slices.ContainsFunc(others, covers) {
			return true, nil
		}
	}
	return false, nil
}

func prefixes(r *networkingv1.ServiceCIDR) (out []netip.Prefix) {
	for _, s := range r.Spec.CIDRs {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// say writes the condition Ready, unless it is there.
func (c *controller) say(ctx context.Context, r *networkingv1.ServiceCIDR, status metav1.ConditionStatus, reason, message string) error {
	now := metav1.Condition{Type: networkingv1.ServiceCIDRConditionReady, Status: status, Reason: reason, Message: message}
	if !meta.SetStatusCondition(&r.Status.Conditions, now) {
		return nil
	}
	_, err := c.Client.NetworkingV1().ServiceCIDRs().UpdateStatus(ctx, r, metav1.UpdateOptions{})
	return written(err)
}

func written(err error) error {
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("write ServiceCIDR: %w", err)
}
