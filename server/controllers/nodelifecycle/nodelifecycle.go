package nodelifecycle

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
	"bramble.dev/server/controllers/nodes"
	"bramble.dev/server/controllers/pods"
)

// lookAtAll is how often every node is looked at without a reason.
const lookAtAll = 2 * time.Minute

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client   kubernetes.Interface
	Events   record.EventRecorder
	Nodes    *cache.Cache[corev1.Node]
	Pods     *cache.Cache[corev1.Pod]
	Presence nodes.Presence
	Log      *slog.Logger
}

// Controller is a loop that also listens to presence.
type Controller struct {
	Inputs
	loop   *loop.Loop
	writes loop.Writes
}

// New makes the controller.
func New(in Inputs) *Controller {
	c := &Controller{Inputs: in}
	c.loop = loop.New("node-lifecycle-controller", in.Log, c.reconcile)
	loop.Watch(c.loop, in.Nodes, func(change cache.Change[corev1.Node]) []loop.Key {
		c.tell(change)
		return loop.Self(change)
	})
	return c
}

// Run works until ctx is done.
func (c *Controller) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { c.loop.Run(ctx) })
	changes := c.Presence.Changes()
	// A name may be lost where changes come faster than they are read.
	tick := time.NewTicker(lookAtAll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, node := range c.Nodes.List("", nil) {
				c.loop.Enqueue(loop.KeyOf(node))
			}
		case <-ctx.Done():
			wg.Wait()
			return
		case name, ok := <-changes:
			if !ok {
				changes = nil
				continue
			}
			c.loop.Enqueue(loop.Key{Name: name})
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, key loop.Key) error {
	if err := c.writes.Settle(ctx, key); err != nil {
		return err
	}
	node, ok := c.Nodes.Get("", key.Name)
	if !ok {
		return nil
	}
	now := time.Now()
	online, since := c.Presence.Online(node.Name)
	missing, in := observed{node: node, online: online, since: since, now: now}.missing()
	if missing {
		if conditions := unknown(node, now); conditions != nil {
			return c.mark(ctx, key, node, conditions)
		}
	} else if in > 0 {
		c.loop.After(key, in)
	}
	if wanted, changed := taints(node, now); changed {
		return c.taint(ctx, key, node, wanted)
	}
	if wanted, changed := allocatable(node); changed {
		return c.allocate(ctx, key, node, wanted)
	}
	if ready := nodes.Condition(node, corev1.NodeReady); ready != nil && ready.Status == corev1.ConditionUnknown {
		return c.markPods(ctx, node, now)
	}
	return nil
}

// mark writes that the node's state is unknown.
func (c *Controller) mark(ctx context.Context, key loop.Key, node *corev1.Node, conditions []corev1.NodeCondition) error {
	wasReady := nodes.IsReady(node)
	node = node.DeepCopy()
	node.Status.Conditions = conditions
	written, err := c.Client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mark the node unknown: %w", err)
	}
	c.writes.Add(key, c.Nodes.Seen(written.ResourceVersion))
	if wasReady {
		c.Events.Eventf(reference(node), corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", node.Name)
	}
	c.loop.Enqueue(key)
	return nil
}

func (c *Controller) taint(ctx context.Context, key loop.Key, node *corev1.Node, wanted []corev1.Taint) error {
	node = node.DeepCopy()
	node.Spec.Taints = wanted
	written, err := c.Client.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{})
	return loop.Updated(&c.writes, key, c.Nodes, written, err, "taint the node")
}

func (c *Controller) allocate(ctx context.Context, key loop.Key, node *corev1.Node, wanted corev1.ResourceList) error {
	node = node.DeepCopy()
	node.Status.Allocatable = wanted
	written, err := c.Client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return loop.Updated(&c.writes, key, c.Nodes, written, err, "offer what was advertised on the node")
}

// markPods says of the node's pods that they are not ready, so that no Service
// sends anything there.
func (c *Controller) markPods(ctx context.Context, node *corev1.Node, now time.Time) error {
	for _, pod := range cache.OnNode(c.Pods, node.Name) {
		if pods.IsFinished(pod) || !pods.IsReady(pod) {
			continue
		}
		marked := pod.DeepCopy()
		ready := pods.Condition(marked, corev1.PodReady)
		ready.Status = corev1.ConditionFalse
		ready.LastTransitionTime = metav1.NewTime(now)
		if err := pods.PatchStatus(ctx, c.Client, pod, marked); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("mark pod %s/%s not ready: %w", pod.Namespace, pod.Name, err)
		}
		c.Events.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	}
	return nil
}
