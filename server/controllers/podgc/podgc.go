// Package podgc removes pods that nobody else will: those bound to a node that
// no longer exists, those asked to go before they had a node, those asked to go
// from a node that is out of service or has ended them by its fence, and the
// oldest of very many finished ones.
//
// Invariant: a pod that its node may still run is left alone.
//
//	l := podgc.New(podgc.Inputs{...})
//	l.Run(ctx)
package podgc

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
	"bramble.dev/server/controllers/nodes"
	"bramble.dev/server/controllers/pods"
)

const (
	// quarantine is how long a node must be gone before its pods are.
	quarantine = 40 * time.Second
	// threshold is how many finished pods are kept. Boards are small: upstream
	// keeps 12,500.
	threshold = 1000
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client kubernetes.Interface
	Nodes  *cache.Cache[corev1.Node]
	Pods   *cache.Cache[corev1.Pod]
	// Presence knows which nodes are there, and when each may last have been given a sign of life.
	Presence nodes.Presence
	Log      *slog.Logger
}

type controller struct {
	Inputs
	loop *loop.Loop

	mu sync.Mutex
	// missing holds since when nodes that pods name are known not to be there; a restart begins the time anew.
	missing map[string]time.Time
}

// finished is the key that stands for all finished pods.
var finished = loop.Key{Name: "*finished"}

// New makes the controller; its keys are pods.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in, missing: map[string]time.Time{}}
	c.loop = loop.New("pod-garbage-collector", in.Log, c.reconcile).OneWorker()
	loop.Watch(c.loop, in.Pods, func(change cache.Change[corev1.Pod]) []loop.Key {
		pod := change.New
		if pod == nil {
			if node := change.Old.Spec.NodeName; len(cache.OnNode(in.Pods, node)) == 0 {
				c.forget(node)
			}
			return nil
		}
		keys := []loop.Key{}
		_, ok := in.Nodes.Get("", pod.Spec.NodeName)
		if pod.DeletionTimestamp != nil && (ok || pod.Spec.NodeName == "") {
			keys = append(keys, change.Key())
		}
		if !ok && pod.Spec.NodeName != "" && (change.Old == nil || change.Old.Spec.NodeName == "") {
			keys = append(keys, change.Key()) // it may have been there before this server
		}
		if pods.IsFinished(pod) && in.Pods.Len() > threshold {
			keys = append(keys, finished)
		}
		return keys
	})
	loop.Watch(c.loop, in.Nodes, func(change cache.Change[corev1.Node]) []loop.Key {
		if change.New != nil {
			c.forget(change.New.Name)
			return loop.KeysOf(leaving(cache.OnNode(in.Pods, change.New.Name)))
		}
		return loop.KeysOf(cache.OnNode(in.Pods, change.Old.Name))
	})
	return c.loop
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	if key == finished {
		for _, pod := range surplus(c.Pods.List("", nil), threshold) {
			if err := c.remove(ctx, pod, nil); err != nil {
				return err
			}
		}
		return nil
	}
	pod, ok := c.Pods.Get(key.Namespace, key.Name)
	switch {
	case !ok:
		return nil
	case pod.Spec.NodeName == "" && pod.DeletionTimestamp != nil:
		return c.remove(ctx, pod, nil)
	case pod.Spec.NodeName == "":
		return nil
	}
	if node, ok := c.Nodes.Get("", pod.Spec.NodeName); ok {
		return c.collect(ctx, key, pod, node)
	}
	if left := quarantine - c.gone(pod.Spec.NodeName, time.Now()); left > 0 {
		c.loop.After(key, left)
		return nil
	}
	// Before a pod is taken for lost the API is asked, not the cache.
	_, err := c.Client.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return err
	}
	return c.remove(ctx, pod, &corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
		Reason: "DeletionByPodGC", Message: "PodGC: node no longer exists",
	})
}

// gone gives for how long a node has been missing.
func (c *controller) gone(node string, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.missing[node]; !ok {
		c.missing[node] = now
	}
	return now.Sub(c.missing[node])
}

// forget is for a node that is there, or that no pod names any more.
func (c *controller) forget(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.missing, node)
}

// collect removes a pod that was asked to go from a node that exists, once it has surely ended there.
func (c *controller) collect(ctx context.Context, key loop.Key, pod *corev1.Pod, node *corev1.Node) error {
	online, _ := c.Presence.Online(node.Name)
	gone, in := ended(pod, absent{node: node, online: online, held: c.Presence.Held(node.Name)}, time.Now())
	if in > 0 {
		c.loop.After(key, in)
	}
	if !gone {
		return nil
	}
	c.Log.Info("a pod is removed without word of its node", "namespace", pod.Namespace, "pod", pod.Name, "node", node.Name)
	return c.remove(ctx, pod, nil)
}

// surplus gives the oldest finished pods beyond a number.
func surplus(all []*corev1.Pod, keep int) []*corev1.Pod {
	done := pods.Filter(all, pods.IsFinished)
	slices.SortFunc(done, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return done[:max(len(done)-keep, 0)]
}

// remove marks a pod failed, with the reason if there is one, and deletes it at once.
func (c *controller) remove(ctx context.Context, pod *corev1.Pod, why *corev1.PodCondition) error {
	if !pods.IsFinished(pod) {
		marked := pod.DeepCopy()
		marked.Status.Phase, marked.Status.ObservedGeneration = corev1.PodFailed, pod.Generation
		if why != nil {
			pods.SetCondition(marked, *why)
		}
		if err := pods.PatchStatus(ctx, c.Client, pod, marked); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("mark failed: %w", err)
		}
	}
	at := int64(0)
	err := c.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &at, Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}
