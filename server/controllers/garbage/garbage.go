package garbage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

// settle is how long served resources must be unchanged before they are read again.
const settle = 500 * time.Millisecond

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Metadata  metadata.Interface
	Discovery discovery.DiscoveryInterface
	Events    record.EventRecorder
	Source    cache.Source
	Prefix    func(schema.GroupResource) string
	// Elsewhere gives the group versions that other servers answer (APIServices that name a Service). Nil: there are none.
	Elsewhere func() map[schema.GroupVersion]bool
	Log       *slog.Logger
}

// Controller follows all resources and decides about objects with owners.
type Controller struct {
	Inputs
	loop      *loop.Loop
	far       atomic.Pointer[loop.Loop] // for what other servers have a part in; made with the first of them
	graph     *graph
	kinds     kinds
	following map[schema.GroupResource]following // used by Run alone
}

// following is a resource that feeds the graph.
type following struct {
	version schema.GroupVersion // that it is read in
	far     bool                // from another server, and not from the store
	stop    context.CancelFunc
}

// New makes the controller.
func New(in Inputs) *Controller {
	c := &Controller{Inputs: in, following: map[schema.GroupResource]following{}}
	c.loop = loop.New("generic-garbage-collector", in.Log, c.reconcile)
	c.graph = newGraph(func(w work) { c.loop.Enqueue(keyOf(w)) })
	return c
}

const orphanMark = "orphan"

func keyOf(w work) loop.Key {
	key := loop.Key{Name: string(w.uid)}
	if w.orphan {
		key.Namespace = orphanMark
	}
	return key
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	c.refresh(ctx, &wg)
	wg.Go(func() { c.loop.Run(ctx) })
	changed := c.served(ctx, &wg)
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-c.lookAgain():
		}
		c.refresh(ctx, &wg)
	}
}

// refresh follows the resources that are served now.
func (c *Controller) refresh(ctx context.Context, wg *sync.WaitGroup) {
	var now offered
	for {
		var err error
		if now, err = c.kinds.discover(c.Discovery, c.elsewhere()); err == nil {
			break
		}
		c.Log.Warn("garbage collection cannot discover what is served", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryAfter):
		}
	}
	for gr, f := range c.following {
		t, served := now.followed[gr]
		switch {
		case served && t.far == f.far && (!t.far || t.version == f.version):
			continue
		case !served && now.silent[f.version]:
			continue // its server is away: what it has is there yet
		}
		f.stop()
		delete(c.following, gr)
		// Of what another server has that is announced no more, nothing is known: not that it is gone, either.
		if !served && !f.far {
			c.lookOnce(gr)
		}
	}
	for gr, t := range now.followed {
		if _, is := c.following[gr]; is {
			continue
		}
		prefix := c.Prefix(gr)
		if !t.far && prefix == "" {
			continue
		}
		one, stop := context.WithCancel(ctx)
		c.following[gr] = following{version: t.version, far: t.far, stop: stop}
		if t.far {
			c.startFar(ctx, wg)
			wg.Go(func() { c.followFar(one, gr.WithVersion(t.version.Version)) })
			continue
		}
		f, err := c.start(gr, prefix)
		wg.Go(func() { c.follow(one, gr, prefix, f, err) })
	}
}

// lookOnce takes in what is left of a resource that is served no more. Only what the store does not have is gone: that
// nobody serves an object says nothing about it.
func (c *Controller) lookOnce(gr schema.GroupResource) {
	f, err := c.start(gr, c.Prefix(gr))
	if err != nil {
		c.Log.Warn("garbage collection cannot see what is left of a resource", "resource", gr.String(), "err", err)
		return
	}
	f.Close()
}

// served tells when definitions of custom resources changed, or what other servers have.
func (c *Controller) served(ctx context.Context, wg *sync.WaitGroup) <-chan struct{} {
	changed := make(chan struct{}, 1)
	always := func() bool { return true }
	c.tell(ctx, wg, changed, schema.GroupResource{Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"}, always)
	if c.Elsewhere != nil {
		c.tell(ctx, wg, changed, schema.GroupResource{Group: "apiregistration.k8s.io", Resource: "apiservices"}, c.othersMatter())
	}
	return changed
}

// tell does so for the changes of one resource that matter.
func (c *Controller) tell(ctx context.Context, wg *sync.WaitGroup, changed chan<- struct{}, gr schema.GroupResource, matter func() bool) {
	prefix := c.Prefix(gr)
	if prefix == "" {
		return
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			f, err := c.Source.Follow(prefix)
			// What was there before this follower began may be news too.
			news := err == nil && len(f.Snapshot()) > 0
			for err == nil {
				if news && matter() {
					select {
					case <-ctx.Done():
					case <-time.After(settle):
					}
					select {
					case changed <- struct{}{}:
					default: // it is known already
					}
				}
				_, err = f.Next(ctx)
				news = true
			}
			if f != nil {
				f.Close()
			}
			select {
			case <-ctx.Done():
			case <-time.After(retryAfter):
			}
		}
	})
}

func (c *Controller) reconcile(ctx context.Context, key loop.Key) error {
	n, dependents, ok := c.graph.get(types.UID(key.Name))
	switch {
	case !ok || !n.known || n.gone:
		return nil
	case c.handOver(key, n, dependents):
		return nil
	}
	return c.decide(ctx, key, n, dependents)
}

// decide moves the object of a key one step.
func (c *Controller) decide(ctx context.Context, key loop.Key, n node, dependents []node) error {
	switch {
	case key.Namespace == orphanMark:
		return c.orphan(ctx, n, dependents)
	case n.foreground:
		return c.await(ctx, n, dependents)
	case n.deleting:
		return nil
	}
	latest, err := c.get(ctx, n.id)
	if errors.Is(err, errGone) {
		c.graph.remove(n.id.uid)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", describe(n.id), err)
	}
	if len(latest.OwnerReferences) == 0 {
		return nil
	}
	refs, err := c.classify(ctx, n, latest)
	if errors.Is(err, errNamespaced) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.carryOut(ctx, n, dependents, latest, refs)
}

func (c *Controller) carryOut(ctx context.Context, n node, dependents []node, latest *metav1.PartialObjectMetadata, refs references) error {
	switch judge(refs, len(dependents)) {
	case unlink:
		return c.patchOwners(ctx, n.id, latest, without(append(refs.dangling, refs.waiting...)))
	case removeAll:
		// A circle of owners that all wait would never end: this one's owners
		// no longer wait for it if one of its dependents waits already.
		if slices.ContainsFunc(dependents, func(d node) bool { return d.foreground }) {
			if err := c.patchOwners(ctx, n.id, latest, unblocked); err != nil {
				return err
			}
			return c.delete(ctx, n.id, "", metav1.DeletePropagationForeground)
		}
		return c.delete(ctx, n.id, latest.ResourceVersion, metav1.DeletePropagationForeground)
	case remove:
		return c.delete(ctx, n.id, latest.ResourceVersion, policy(latest))
	}
	return nil
}

// await lets an owner go when no dependent blocks it, and asks about those that do.
func (c *Controller) await(ctx context.Context, n node, dependents []node) error {
	left := blockers(n.id.uid, dependents)
	if len(left) == 0 {
		return c.removeFinalizer(ctx, n.id, metav1.FinalizerDeleteDependents)
	}
	for _, d := range left {
		if !d.foreground {
			c.loop.Enqueue(keyOf(work{uid: d.id.uid}))
		}
	}
	return nil
}

// orphan sets all dependents free and then lets the owner go.
func (c *Controller) orphan(ctx context.Context, n node, dependents []node) error {
	if !n.orphaning {
		return nil
	}
	var errs []error
	for _, d := range dependents {
		latest, err := c.get(ctx, d.id)
		if errors.Is(err, errGone) {
			continue
		}
		if err == nil {
			err = c.patchOwners(ctx, d.id, latest, without([]types.UID{n.id.uid}))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("orphan %s: %w", describe(d.id), err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return c.removeFinalizer(ctx, n.id, metav1.FinalizerOrphanDependents)
}

// errNamespaced says that a cluster-wide object names an owner in a namespace.
var errNamespaced = errors.New("cluster-scoped objects cannot refer to namespaced owners")

// classify asks about each owner, the API if the graph does not know it for sure.
func (c *Controller) classify(ctx context.Context, n node, latest *metav1.PartialObjectMetadata) (references, error) {
	var out references
	for _, ref := range latest.OwnerReferences {
		owner, _, known := c.graph.get(ref.UID)
		if known && owner.gone {
			out.dangling = append(out.dangling, ref.UID)
			continue
		}
		exists, waits, err := c.ask(ctx, n, ref)
		switch {
		case err != nil:
			return references{}, err
		case !exists:
			out.dangling = append(out.dangling, ref.UID)
		case waits:
			out.waiting = append(out.waiting, ref.UID)
		default:
			out.solid = append(out.solid, ref.UID)
		}
	}
	return out, nil
}

// ask says whether the owner that a reference names exists and whether it waits
// for its dependents.
func (c *Controller) ask(ctx context.Context, n node, ref metav1.OwnerReference) (exists, waits bool, err error) {
	t, err := c.kinds.find(ref.APIVersion, ref.Kind)
	if err != nil {
		return false, false, err
	}
	id := identity{resource: t.resource, name: ref.Name, uid: ref.UID}
	if t.namespaced {
		if n.id.namespace == "" {
			gvr, err := c.kinds.version(n.id.resource)
			if err != nil {
				return false, false, err
			}
			object := &corev1.ObjectReference{APIVersion: gvr.GroupVersion().String(), Kind: n.id.resource.Resource, Name: n.id.name, UID: n.id.uid}
			c.Events.Eventf(object, corev1.EventTypeWarning, "OwnerRefInvalidNamespace", "ownerRef %s does not exist in namespace %q", refString(ref), n.id.namespace)
			return false, false, errNamespaced
		}
		id.namespace = n.id.namespace
	}
	owner, err := c.get(ctx, id)
	if errors.Is(err, errGone) {
		return false, false, nil
	}
	if err != nil {
		return false, false, fmt.Errorf("read owner %s: %w", describe(id), err)
	}
	c.graph.confirm(id, owner)
	return true, owner.DeletionTimestamp != nil && has(owner, metav1.FinalizerDeleteDependents), nil
}

func refString(r metav1.OwnerReference) string {
	return fmt.Sprintf("[%s/%s, name: %s, uid: %s]", r.APIVersion, r.Kind, r.Name, r.UID)
}

func describe(id identity) string {
	return fmt.Sprintf("%s %s/%s", id.resource, id.namespace, id.name)
}
