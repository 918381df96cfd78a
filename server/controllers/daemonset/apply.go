package daemonset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/controllers/loop"
	"bramble.dev/server/controllers/pods"
)

// burst bounds what one step creates or deletes.
const burst = 250

// apply carries a plan out; the status is written also when something failed,
// because it tells what is.
func (c *controller) apply(ctx context.Context, key loop.Key, ds *appsv1.DaemonSet, p plan) error {
	err := errors.Join(c.create(ctx, key, ds, p), c.remove(ctx, key, ds, p))
	if err == nil {
		err = c.tidy(ctx, key, p)
	}
	if reported := c.report(ctx, key, ds, p.status); reported != nil {
		return errors.Join(err, reported)
	}
	if p.wake > 0 {
		c.loop.After(key, p.wake)
	}
	return err
}

func (c *controller) create(ctx context.Context, key loop.Key, ds *appsv1.DaemonSet, p plan) error {
	var next atomic.Int64
	return pods.Batches(min(len(p.create), burst), func() error {
		node := p.create[next.Add(1)-1]
		created, err := c.control.Create(ctx, ds, ds.Namespace, newPod(ds, p.hash, node))
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // nothing can be made there any more, and that is right
		}
		return loop.Wrote(&c.writes, key, c.Pods, created, err)
	})
}

// remove deletes pods; of those that have ended the DaemonSet's events tell.
func (c *controller) remove(ctx context.Context, key loop.Key, ds *appsv1.DaemonSet, p plan) error {
	gone := p.delete
	for _, e := range p.ended {
		if e.pod.Status.Phase == corev1.PodFailed {
			c.failures.GC()
			c.failures.Next(failureKey(ds, e.node), c.failures.Clock.Now())
			c.Events.Eventf(ds, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", e.pod.Namespace, e.pod.Name, e.node)
		} else {
			c.Events.Eventf(ds, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", e.pod.Namespace, e.pod.Name, e.node)
		}
		gone = append(gone, e.pod)
	}
	var next atomic.Int64
	return pods.Batches(min(len(gone), burst), func() error {
		pod := gone[next.Add(1)-1]
		err := c.control.Delete(ctx, ds, pod)
		if err == nil {
			c.writes.Add(key, c.Pods.Until(pod.Namespace, pod.Name, pods.Gone(pod.UID)))
		}
		return err
	})
}

// tidy relabels pods and removes revisions.
func (c *controller) tidy(ctx context.Context, key loop.Key, p plan) error {
	for _, pod := range p.relabel {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]string{appsv1.DefaultDaemonSetUniqueLabelKey: p.hash}}})
		if err != nil {
			return loop.Permanent(err)
		}
		patched, err := c.control.Patch(ctx, pod, patch)
		if err != nil {
			return fmt.Errorf("relabel pod %s: %w", pod.Name, err)
		}
		c.writes.Add(key, c.Pods.Seen(patched.ResourceVersion))
	}
	return c.history.Delete(ctx, key, p.surplus)
}

func (c *controller) report(ctx context.Context, key loop.Key, ds *appsv1.DaemonSet, status appsv1.DaemonSetStatus) error {
	if equality.Semantic.DeepEqual(ds.Status, status) {
		return nil
	}
	ds = ds.DeepCopy()
	ds.Status = status
	written, err := c.Client.AppsV1().DaemonSets(ds.Namespace).UpdateStatus(ctx, ds, metav1.UpdateOptions{})
	return loop.Reported(&c.writes, key, c.DaemonSets, written, err)
}
