// Package tainteviction deletes pods from nodes with NoExecute taints that they
// do not tolerate, or tolerate for a time.
//
// Invariant: a node that is away is not a node that is dead: from a node that is
// not ready or unreachable only those pods are taken that themselves say after
// how many seconds. Every other taint works as upstream's.
//
//	l := tainteviction.New(tainteviction.Inputs{...})
//	l.Run(ctx)
package tainteviction

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
	"bramble.dev/server/controllers/nodelifecycle"
	"bramble.dev/server/controllers/pods"
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client kubernetes.Interface
	Events record.EventRecorder
	Nodes  *cache.Cache[corev1.Node]
	Pods   *cache.Cache[corev1.Pod]
	// Presence knows of each node when it may last have been given a sign of life.
	Presence nodelifecycle.Presence
	Log      *slog.Logger
}

type controller struct {
	Inputs
	loop *loop.Loop

	mu sync.Mutex
	// waiting holds, for pods that will be evicted, since when; it serves taints
	// without a time of their own. A restart begins the time anew.
	waiting map[types.UID]time.Time
}

// New makes the controller; its keys are pods.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in, waiting: map[types.UID]time.Time{}}
	c.loop = loop.New("taint-eviction-controller", in.Log, c.reconcile)
	loop.Watch(c.loop, in.Pods, func(change cache.Change[corev1.Pod]) []loop.Key {
		switch {
		case change.New == nil:
			c.forget(change.Old.UID)
			return nil
		case change.New.Spec.NodeName == "" || (change.Old != nil && change.Old.Spec.NodeName != "" && len(change.Old.Spec.Tolerations) == len(change.New.Spec.Tolerations)):
			return nil // neither where it is nor what it tolerates changed
		}
		return []loop.Key{change.Key()}
	})
	loop.Watch(c.loop, in.Nodes, c.keysOfNode)
	return c.loop
}

func (c *controller) forget(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, uid)
}

// since gives when a pod began to wait.
func (c *controller) since(uid types.UID, now time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.waiting[uid]; !ok {
		c.waiting[uid] = now
	}
	return c.waiting[uid]
}

func (c *controller) isWaiting(uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.waiting[uid]
	return ok
}

// keysOfNode wakes the pods of a node whose NoExecute taints changed.
func (c *controller) keysOfNode(change cache.Change[corev1.Node]) []loop.Key {
	if change.New == nil || len(noExecute(change.New)) == 0 && (change.Old == nil || len(noExecute(change.Old)) == 0) {
		return nil
	}
	var keys []loop.Key
	for _, pod := range cache.OnNode(c.Pods, change.New.Name) {
		keys = append(keys, loop.Key{Namespace: pod.Namespace, Name: pod.Name})
	}
	return keys
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	pod, ok := c.Pods.Get(key.Namespace, key.Name)
	if !ok || pod.DeletionTimestamp != nil || pods.IsFinished(pod) {
		return nil
	}
	node, ok := c.Nodes.Get("", pod.Spec.NodeName)
	if !ok {
		return nil
	}
	now := time.Now()
	d := decide(noExecute(node), pod.Spec.Tolerations)
	if d.stays {
		if c.isWaiting(pod.UID) {
			c.forget(pod.UID)
			c.Events.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Cancelling deletion of Pod %s", key)
		}
		return nil
	}
	if at := c.fenced(pod, d, c.since(pod.UID, now).Add(d.after)); at.After(now) {
		c.loop.After(key, at.Sub(now))
		return nil
	}
	return c.evict(ctx, pod, now)
}

// fenced puts off the eviction of a pod that its node may still run, until the node has surely ended it: its deletion lets
// others make another that has the same volume.
func (c *controller) fenced(pod *corev1.Pod, d decision, at time.Time) time.Time {
	kill, ok := link.FenceTold(pod.Status.Conditions)
	if !ok || !d.away {
		return at
	}
	if online, _ := c.Presence.Online(pod.Spec.NodeName); online {
		return at
	}
	if passed := c.Presence.Held(pod.Spec.NodeName).Add(link.FencePassed(kill)); passed.After(at) {
		return passed
	}
	return at
}

func (c *controller) evict(ctx context.Context, pod *corev1.Pod, now time.Time) error {
	c.Events.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", pod.Namespace, pod.Name)
	marked := pod.DeepCopy()
	pods.SetCondition(marked, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now),
		Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint",
	})
	if err := pods.PatchStatus(ctx, c.Client, pod, marked); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("mark for deletion: %w", err)
	}
	err := c.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}
