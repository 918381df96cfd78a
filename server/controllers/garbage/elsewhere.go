package garbage

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"bramble.dev/server/controllers/loop"
)

// Objects of other servers (APIServices that name a Service) are not in the store: they are listed and watched through the API, as upstream
// does with all. Whatever such a server keeps waiting has workers of its own, so that it holds up nothing that lies in the store.

const (
	// discoverEvery is how often other servers' resources are discovered anew, as upstream does: a server may have more of them after it was
	// replaced, and no object tells.
	discoverEvery = 30 * time.Second
	farWorkers    = 20 // upstream's number
)

func (c *Controller) elsewhere() map[schema.GroupVersion]bool {
	if c.Elsewhere == nil {
		return nil
	}
	return c.Elsewhere()
}

// lookAgain tells when to discover anew; never where no other server has anything.
func (c *Controller) lookAgain() <-chan time.Time {
	if len(c.elsewhere()) == 0 {
		return nil
	}
	return time.After(discoverEvery)
}

// othersMatter says of each change of APIServices whether it can be about another server: while none has anything, and none had, it is
// about this one's own.
func (c *Controller) othersMatter() func() bool {
	had := false
	return func() bool {
		has := len(c.elsewhere()) > 0
		matters := has || had
		had = has
		return matters
	}
}

// startFar starts the workers for what other servers have a part in, with the first resource of one.
func (c *Controller) startFar(ctx context.Context, wg *sync.WaitGroup) {
	if c.far.Load() != nil {
		return
	}
	far := loop.New("generic-garbage-collector", c.Log, func(ctx context.Context, key loop.Key) error {
		n, dependents, ok := c.graph.get(types.UID(key.Name))
		if !ok || !n.known || n.gone {
			return nil
		}
		return c.decide(ctx, key, n, dependents)
	}).Workers(farWorkers)
	c.far.Store(far)
	wg.Go(func() { far.Run(ctx) })
}

// handOver leaves to those workers what another server is going to be asked about: the object, one of its owners, or what it sets free.
func (c *Controller) handOver(key loop.Key, n node, dependents []node) bool {
	far := c.far.Load()
	if far == nil || !c.asksElsewhere(key, n, dependents) {
		return false
	}
	far.Enqueue(key)
	return true
}

func (c *Controller) asksElsewhere(key loop.Key, n node, dependents []node) bool {
	if c.kinds.isFar(n.id.resource) {
		return true
	}
	for _, ref := range n.owners {
		if t, err := c.kinds.find(ref.APIVersion, ref.Kind); err == nil && t.far {
			return true
		}
	}
	for _, d := range dependents {
		if key.Namespace == orphanMark && c.kinds.isFar(d.id.resource) {
			return true
		}
	}
	return false
}

// followFar feeds the graph with a resource of another server until ctx is done. While that is away it is tried again, later each time.
func (c *Controller) followFar(ctx context.Context, gvr schema.GroupVersionResource) {
	client := c.Metadata.Resource(gvr)
	source := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return client.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return client.Watch(ctx, o)
		},
	}, c.Metadata)
	r := cache.NewReflectorWithOptions(source, &metav1.PartialObjectMetadata{}, farObjects{c.graph, gvr.GroupResource()}, cache.ReflectorOptions{Name: "garbage collection of " + gvr.String()})
	r.RunWithContext(ctx)
}

// farObjects takes what a reflector reads of a resource into the graph; it keeps nothing.
type farObjects struct {
	graph    *graph
	resource schema.GroupResource
}

func (f farObjects) Add(o any) error {
	f.graph.observe(f.resource, o.(metav1.Object))
	return nil
}

func (f farObjects) Update(o any) error { return f.Add(o) }

func (f farObjects) Delete(o any) error {
	f.graph.remove(o.(metav1.Object).GetUID())
	return nil
}

// Replace takes in what is there; what the graph knows and the list does not was deleted meanwhile.
func (f farObjects) Replace(all []any, _ string) error {
	present := map[types.UID]bool{}
	for _, o := range all {
		present[o.(metav1.Object).GetUID()] = true
		f.graph.observe(f.resource, o.(metav1.Object))
	}
	f.graph.only(f.resource, present)
	return nil
}

func (farObjects) Resync() error { return nil }
