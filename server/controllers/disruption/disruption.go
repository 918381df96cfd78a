package disruption

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
	"bramble.dev/server/controllers/pods"
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client                 kubernetes.Interface
	Events                 record.EventRecorder
	Budgets                *cache.Cache[policyv1.PodDisruptionBudget]
	Pods                   *cache.Cache[corev1.Pod]
	ReplicationControllers *cache.Cache[corev1.ReplicationController]
	ReplicaSets            *cache.Cache[appsv1.ReplicaSet]
	Deployments            *cache.Cache[appsv1.Deployment]
	StatefulSets           *cache.Cache[appsv1.StatefulSet]
	Log                    *slog.Logger
}

type controller struct {
	Inputs
	loop *loop.Loop
}

// New makes the controller. Its keys are budgets, and pods that are marked as
// about to be disrupted.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in}
	c.loop = loop.New("disruption-controller", in.Log, c.reconcile)
	loop.Watch(c.loop, in.Budgets, loop.Self)
	loop.Watch(c.loop, in.Pods, c.keysOfPod)
	watchSizes(c, in.ReplicationControllers, func(rc *corev1.ReplicationController) *int32 { return rc.Spec.Replicas })
	watchSizes(c, in.ReplicaSets, func(rs *appsv1.ReplicaSet) *int32 { return rs.Spec.Replicas })
	watchSizes(c, in.Deployments, func(d *appsv1.Deployment) *int32 { return d.Spec.Replicas })
	watchSizes(c, in.StatefulSets, func(set *appsv1.StatefulSet) *int32 { return set.Spec.Replicas })
	return c.loop
}

// watchSizes wakes the budgets of a namespace when a size changes that they may
// count with, becomes known, or comes under another's.
func watchSizes[T any](c *controller, from *cache.Cache[T], size func(*T) *int32) {
	loop.Watch(c.loop, from, func(change cache.Change[T]) []loop.Key {
		if change.Old != nil && change.New != nil && equality.Semantic.DeepEqual(size(change.Old), size(change.New)) && sameOwners(change.Old, change.New) {
			return nil
		}
		return loop.KeysOf(c.Budgets.List(change.Key().Namespace, nil))
	})
}

func sameOwners(a, b any) bool {
	return equality.Semantic.DeepEqual(a.(metav1.Object).GetOwnerReferences(), b.(metav1.Object).GetOwnerReferences())
}

func (c *controller) keysOfPod(change cache.Change[corev1.Pod]) []loop.Key {
	if change.Old != nil && change.New != nil && sameForBudgets(change.Old, change.New) {
		return nil
	}
	keys := c.budgetsOf(change.Old)
	if pod := change.New; pod != nil {
		now := c.budgetsOf(pod)
		if len(now) > 1 {
			c.Events.Eventf(pod, corev1.EventTypeWarning, "MultiplePodDisruptionBudgets", "Pod %q/%q matches multiple PodDisruptionBudgets.  Chose %q arbitrarily.", pod.Namespace, pod.Name, now[0].Name)
		}
		keys = append(keys, now...) // the queue holds each once
		if left, ok := stale(pod, time.Now()); ok {
			c.loop.After(loop.PodKey(pod), left)
		}
	}
	return keys
}

// sameForBudgets spares the work for changes that no budget is about.
func sameForBudgets(a, b *corev1.Pod) bool {
	disrupted := func(p *corev1.Pod) corev1.PodCondition {
		if c := pods.Condition(p, corev1.DisruptionTarget); c != nil {
			return *c
		}
		return corev1.PodCondition{}
	}
	return pods.IsReady(a) == pods.IsReady(b) && a.DeletionTimestamp.Equal(b.DeletionTimestamp) && a.Status.Phase == b.Status.Phase &&
		equality.Semantic.DeepEqual(a.Labels, b.Labels) && equality.Semantic.DeepEqual(a.OwnerReferences, b.OwnerReferences) &&
		equality.Semantic.DeepEqual(disrupted(a), disrupted(b))
}

// budgetsOf are the budgets that select a pod. There should be one; with more
// the API refuses evictions, and the pod's events say so.
func (c *controller) budgetsOf(pod *corev1.Pod) []loop.Key {
	if pod == nil {
		return nil
	}
	var keys []loop.Key
	for _, b := range c.Budgets.List(pod.Namespace, nil) {
		if s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && s.Matches(labels.Set(pod.Labels)) {
			keys = append(keys, loop.KeyOf(b))
		}
	}
	return keys
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	if pod, ok := loop.Pod(key); ok {
		return c.unmark(ctx, pod)
	}
	b, ok := c.Budgets.Get(key.Namespace, key.Name)
	if !ok {
		return nil
	}
	err := c.update(ctx, key, b)
	if err == nil || apierrors.IsConflict(err) {
		return err
	}
	c.Log.Debug("a budget allows no disruption because its status cannot be computed", "budget", key.String(), "err", err)
	return c.report(ctx, b, refuse(b, err))
}

func (c *controller) update(ctx context.Context, key loop.Key, b *policyv1.PodDisruptionBudget) error {
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		c.Events.Eventf(b, corev1.EventTypeWarning, "NoPods", "Failed to get pods: %v", err)
		return err
	}
	selected := c.Pods.List(b.Namespace, selector)
	if len(selected) == 0 {
		c.Events.Event(b, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	p, err := decide(observed{budget: b, pods: selected, now: time.Now(), sizeOf: func(ref *metav1.OwnerReference) (int32, types.UID, error) {
		return c.sizeOf(ctx, b.Namespace, ref)
	}})
	if err != nil {
		c.Events.Eventf(b, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		return err
	}
	if len(p.unmanaged) > 0 {
		c.Events.Eventf(b, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", b.Spec.Selector)
	}
	for _, pod := range p.stayed {
		// Upstream names the namespace twice.
		c.Events.Eventf(pod, corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s/%s to be deleted but it wasn't", b.Namespace, b.Namespace)
	}
	if err := c.report(ctx, b, p.status); err != nil {
		return err
	}
	if p.wake > 0 {
		c.loop.After(key, p.wake)
	}
	return nil
}

// report writes over the version that was observed and no other, because the API
// takes from the same status what it allows.
func (c *controller) report(ctx context.Context, b *policyv1.PodDisruptionBudget, status policyv1.PodDisruptionBudgetStatus) error {
	if equality.Semantic.DeepEqual(b.Status, status) {
		return nil
	}
	b = b.DeepCopy()
	b.Status = status
	_, err := c.Client.PolicyV1().PodDisruptionBudgets(b.Namespace).UpdateStatus(ctx, b, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

// unmark takes the mark from a pod that was to be disrupted and was not.
func (c *controller) unmark(ctx context.Context, key loop.Key) error {
	pod, ok := c.Pods.Get(key.Namespace, key.Name)
	if !ok {
		return nil
	}
	left, ok := stale(pod, time.Now())
	if !ok {
		return nil
	}
	if left > 0 {
		c.loop.After(loop.PodKey(pod), left)
		return nil
	}
	cleared := pod.DeepCopy()
	pods.SetCondition(cleared, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now()})
	if err := pods.PatchStatus(ctx, c.Client, pod, cleared); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("take the mark of a disruption from the pod: %w", err)
	}
	return nil
}
