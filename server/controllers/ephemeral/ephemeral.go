// Package ephemeral makes the claims of pods' generic ephemeral volumes. They
// are owned by the pod, so the garbage collector takes them away with it.
//
// Invariant: a claim of that name which is another's is never taken for the
// pod's; the pod then waits, and an event says so.
//
//	l := ephemeral.New(ephemeral.Inputs{...})
//	l.Run(ctx)
package ephemeral

import (
	"context"
	"fmt"
	"log/slog"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client kubernetes.Interface
	Events record.EventRecorder
	Pods   *cache.Cache[corev1.Pod]
	Claims *cache.Cache[corev1.PersistentVolumeClaim]
	Log    *slog.Logger
}

type controller struct{ Inputs }

// New makes the controller. Its keys are pods.
func New(in Inputs) *loop.Loop {
	c := &controller{in}
	l := loop.New("ephemeral-volume-controller", in.Log, c.reconcile)
	loop.Watch(l, in.Pods, func(change cache.Change[corev1.Pod]) []loop.Key {
		if change.New == nil || change.New.DeletionTimestamp != nil || !asks(change.New) {
			return nil
		}
		return []loop.Key{change.Key()}
	})
	loop.Watch(l, in.Claims, func(change cache.Change[corev1.PersistentVolumeClaim]) []loop.Key {
		if change.New != nil {
			return nil
		}
		return loop.Owner[corev1.PersistentVolumeClaim]("Pod")(change)
	})
	return l
}

func asks(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Ephemeral != nil {
			return true
		}
	}
	return false
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	pod, ok := c.Pods.Get(key.Namespace, key.Name)
	if !ok || pod.DeletionTimestamp != nil {
		return nil
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Ephemeral == nil {
			continue
		}
		if err := c.claim(ctx, pod, v); err != nil {
			c.Events.Eventf(pod, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume %s: %v", v.Name, err)
			return fmt.Errorf("ephemeral volume %s: %w", v.Name, err)
		}
	}
	return nil
}

// claim makes a volume's claim unless it is there.
func (c *controller) claim(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	name := ephemeral.VolumeClaimName(pod, v)
	if have, ok := c.Claims.Get(pod.Namespace, name); ok {
		return ephemeral.VolumeIsForPod(pod, have)
	}
	template := v.Ephemeral.VolumeClaimTemplate
	_, err := c.Client.CoreV1().PersistentVolumeClaims(pod.Namespace).Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: template.Spec,
	}, metav1.CreateOptions{})
	if err == nil || apierrors.IsAlreadyExists(err) { // another's is seen when the cache has it
		return nil
	}
	return fmt.Errorf("create PVC %s: %w", name, err)
}
