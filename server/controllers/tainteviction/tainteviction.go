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

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
	"bramble.dev/server/controllers/nodes"
	"bramble.dev/server/controllers/pods"
)

// backCheck is how often it is looked whether a node is back whose pod waits for its fence: then it goes at once.
const backCheck = 10 * time.Second

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client kubernetes.Interface
	Events record.EventRecorder
	Nodes  *cache.Cache[corev1.Node]
	Pods   *cache.Cache[corev1.Pod]
	// Presence knows of each node when it may last have been given a sign of life.
	Presence nodes.Presence
	Log      *slog.Logger
}

type controller struct {
	Inputs
	loop *loop.Loop

	mu sync.Mutex
	// waiting holds, for pods that will be evicted, since when they have been under which taints. The time of a taint
	// itself is not asked: many have none. A restart begins the time anew.
	waiting map[types.UID]map[string]time.Time
}

// New makes the controller; its keys are pods.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in, waiting: map[types.UID]map[string]time.Time{}}
	c.loop = loop.New("taint-eviction-controller", in.Log, c.reconcile)
	loop.Watch(c.loop, in.Pods, func(change cache.Change[corev1.Pod]) []loop.Key {
		switch {
		case change.New == nil:
			c.forget(change.Old.UID)
			return nil
		case change.New.Spec.NodeName == "" || (change.Old != nil && change.Old.Spec.NodeName != "" && equality.Semantic.DeepEqual(change.Old.Spec.Tolerations, change.New.Spec.Tolerations)):
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

// decide is what becomes of a pod now, and whether it has been about to go.
func (c *controller) decide(pod *corev1.Pod, taints []corev1.Taint, now time.Time) (d decision, waited bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, waited := c.waiting[pod.UID]
	under := map[string]time.Time{}
	d = decide(taints, pod.Spec.Tolerations, func(key string) time.Time {
		if at, ok := before[key]; ok {
			under[key] = at
		} else {
			under[key] = now
		}
		return under[key]
	})
	if d.stays {
		delete(c.waiting, pod.UID)
	} else {
		c.waiting[pod.UID] = under
	}
	return d, waited
}

// keysOfNode wakes the pods of a node whose NoExecute taints changed, or that is made anew or gone.
func (c *controller) keysOfNode(change cache.Change[corev1.Node]) []loop.Key {
	if change.Old != nil && change.New != nil && equality.Semantic.DeepEqual(noExecute(change.Old), noExecute(change.New)) {
		return nil
	}
	return loop.KeysOf(cache.OnNode(c.Pods, change.Object().Name))
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	pod, ok := c.Pods.Get(key.Namespace, key.Name)
	if !ok || pod.DeletionTimestamp != nil || pods.IsFinished(pod) {
		return nil
	}
	node, ok := c.Nodes.Get("", pod.Spec.NodeName)
	if !ok {
		c.forget(pod.UID)
		return nil
	}
	now := time.Now()
	d, waited := c.decide(pod, noExecute(node), now)
	if d.stays {
		if waited {
			c.Events.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Cancelling deletion of Pod %s", key)
		}
		return nil
	}
	if at := c.fenced(pod, d); at.After(now) {
		wait := at.Sub(now)
		if at.After(d.at) {
			wait = min(wait, backCheck)
		}
		c.loop.After(key, wait)
		return nil
	}
	return c.evict(ctx, pod, now)
}

// fenced puts off the eviction of a pod that its node may still run, until the node has surely ended it: its deletion lets
// others make another that has the same volume.
func (c *controller) fenced(pod *corev1.Pod, d decision) time.Time {
	kill, ok := link.FenceTold(pod.Status.Conditions)
	if !ok || !d.away {
		return d.at
	}
	if online, _ := c.Presence.Online(pod.Spec.NodeName); online {
		return d.at
	}
	if passed := c.Presence.Held(pod.Spec.NodeName).Add(link.FencePassed(kill)); passed.After(d.at) {
		return passed
	}
	return d.at
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
