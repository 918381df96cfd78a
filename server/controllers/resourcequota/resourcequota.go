// Package resourcequota keeps in the status of each ResourceQuota what its
// namespace uses. Admission refuses by that status, and counts up what it lets
// in; this package counts anew whenever something changed.
//
// Invariant: usage is a function of what the namespace holds, for exactly the
// resources that the quota names; nothing is written when it is right. What
// admission has just let in is counted although it is not there yet, or others
// would be let in in its place.
//
//	l := resourcequota.New(resourcequota.Inputs{...})
//	l.Run(ctx)
package resourcequota

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

// recount is how often a quota is counted without a reason: time alone frees
// what a pod holds that should have ended.
const recount = 5 * time.Minute

// underway is how long what admission has counted may take to be there.
const underway = time.Second

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client         kubernetes.Interface
	ResourceQuotas *cache.Cache[corev1.ResourceQuota]
	Pods           *cache.Cache[corev1.Pod]
	Services       *cache.Cache[corev1.Service]
	Claims         *cache.Cache[corev1.PersistentVolumeClaim]
	Counts         func(schema.GroupResource) *cache.Counter
	Log            *slog.Logger
}

type controller struct {
	Inputs
	loop   *loop.Loop
	writes loop.Writes

	mu      sync.Mutex
	counted map[schema.GroupResource]*cache.Counter // that this controller listens to
	raised  map[loop.Key]time.Time                  // when admission last let something in
}

// New makes the controller.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in, counted: map[schema.GroupResource]*cache.Counter{}, raised: map[loop.Key]time.Time{}}
	c.loop = loop.New("resourcequota-controller", in.Log, c.reconcile)
	loop.Watch(c.loop, in.ResourceQuotas, func(change cache.Change[corev1.ResourceQuota]) []loop.Key {
		c.admitted(change)
		return []loop.Key{change.Key()}
	})
	loop.Watch(c.loop, in.Pods, func(change cache.Change[corev1.Pod]) []loop.Key {
		if change.Old != nil && change.New != nil && countsAlike(change.Old, change.New) {
			return nil
		}
		return c.quotasOf(change.Key().Namespace)
	})
	loop.Watch(c.loop, in.Services, func(change cache.Change[corev1.Service]) []loop.Key { return c.quotasOf(change.Key().Namespace) })
	loop.Watch(c.loop, in.Claims, func(change cache.Change[corev1.PersistentVolumeClaim]) []loop.Key {
		return c.quotasOf(change.Key().Namespace)
	})
	return c.loop
}

// admitted notes that a quota's status was counted up.
func (c *controller) admitted(change cache.Change[corev1.ResourceQuota]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case change.New == nil:
		delete(c.raised, change.Key())
	case change.Old != nil && exceeds(change.New.Status.Used, change.Old.Status.Used):
		c.raised[change.Key()] = time.Now()
	}
}

// early says how long it is too early to count down what was just counted up.
func (c *controller) early(key loop.Key) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return underway - time.Since(c.raised[key])
}

// exceeds says whether any amount is larger than in another list that has it.
func exceeds(a, b corev1.ResourceList) bool {
	for name, q := range a {
		if other, ok := b[name]; ok && q.Cmp(other) > 0 {
			return true
		}
	}
	return false
}

func (c *controller) quotasOf(namespace string) []loop.Key {
	return loop.KeysOf(c.ResourceQuotas.List(namespace, nil))
}

// count gives the number of objects of a resource, and from then on listens to it.
func (c *controller) count(gr schema.GroupResource, namespace string) int {
	c.mu.Lock()
	counter := c.counted[gr]
	fresh := counter == nil
	if fresh {
		counter = c.Counts(gr)
		c.counted[gr] = counter
	}
	c.mu.Unlock()
	if fresh {
		counter.OnChange(func(namespace string) {
			for _, key := range c.quotasOf(namespace) {
				c.loop.Enqueue(key)
			}
		})
	}
	return counter.Count(namespace)
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	if err := c.writes.Settle(ctx, key); err != nil {
		return err
	}
	quota, ok := c.ResourceQuotas.Get(key.Namespace, key.Name)
	if !ok {
		return nil
	}
	c.loop.After(key, recount)
	used := usage(quota, holdings{
		pods: c.Pods.List(key.Namespace, nil), services: c.Services.List(key.Namespace, nil), claims: c.Claims.List(key.Namespace, nil),
		count: func(gr schema.GroupResource) int { return c.count(gr, key.Namespace) }, now: time.Now(),
	})
	wanted := corev1.ResourceQuotaStatus{Hard: quota.Spec.Hard, Used: used}
	if equality.Semantic.DeepEqual(quota.Status, wanted) {
		return nil
	}
	if wait := c.early(key); wait > 0 && exceeds(quota.Status.Used, used) {
		c.loop.After(key, wait)
		return nil
	}
	quota = quota.DeepCopy()
	quota.Status = wanted
	written, err := c.Client.CoreV1().ResourceQuotas(key.Namespace).UpdateStatus(ctx, quota, metav1.UpdateOptions{})
	return loop.Updated(&c.writes, key, c.ResourceQuotas, written, err, "write usage")
}
