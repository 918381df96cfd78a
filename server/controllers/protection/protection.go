// Package protection keeps claims that pods use, volumes that claims are bound
// to, and the attribute classes of claims and volumes: one that is deleted stays
// until nobody uses it any more.
//
// Invariant: the finalizer is removed only from what is being deleted and that
// nobody uses, from a claim only after the API itself, asked last, knew of no pod
// that does; it is put on what lacks it.
//
//	claims := protection.NewClaims(protection.ClaimInputs{...})
//	volumes := protection.NewVolumes(protection.VolumeInputs{...})
//	classes := protection.NewAttributes(protection.AttributeInputs{...})
package protection

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/storage/ephemeral"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

const (
	claimFinalizer  = "kubernetes.io/pvc-protection"
	volumeFinalizer = "kubernetes.io/pv-protection"
	classFinalizer  = "kubernetes.io/vac-protection"
)

// ClaimInputs is what the controller of claims reads and writes with.
type ClaimInputs struct {
	Client kubernetes.Interface
	Claims *cache.Cache[corev1.PersistentVolumeClaim]
	Pods   *cache.Cache[corev1.Pod]
	Log    *slog.Logger
}

type claims struct{ ClaimInputs }

// NewClaims makes the controller of claims.
func NewClaims(in ClaimInputs) *loop.Loop {
	c := &claims{in}
	l := loop.New("pvc-protection-controller", in.Log, c.reconcile)
	loop.Watch(l, in.Claims, loop.Self)
	loop.Watch(l, in.Pods, func(change cache.Change[corev1.Pod]) []loop.Key {
		if change.New != nil && !shutDown(change.New) {
			return nil
		}
		return claimsOf(change.Object())
	})
	return l
}

func claimsOf(pod *corev1.Pod) []loop.Key {
	var keys []loop.Key
	for i := range pod.Spec.Volumes {
		if name, ok := link.ClaimOf(pod, &pod.Spec.Volumes[i]); ok {
			keys = append(keys, loop.Key{Namespace: pod.Namespace, Name: name})
		}
	}
	return keys
}

// shutDown says that the node is done with a pod, so that a claim which the pod
// owns may go before it.
func shutDown(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0
}

// uses says whether a pod keeps a claim. One without a node does not: no node
// starts a pod whose claim is being deleted.
func uses(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	if pod.Spec.NodeName == "" {
		return false
	}
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		name, ok := link.ClaimOf(pod, &v)
		return ok && name == claim.Name && (v.Ephemeral == nil || !shutDown(pod) && ephemeral.VolumeIsForPod(pod, claim) == nil)
	})
}

func (c *claims) reconcile(ctx context.Context, key loop.Key) error {
	claim, ok := c.Claims.Get(key.Namespace, key.Name)
	if !ok {
		return nil
	}
	finalizers, changed := wanted(claim, claimFinalizer)
	if !changed {
		return nil
	}
	if claim.DeletionTimestamp != nil {
		used, err := c.used(ctx, claim)
		if used || err != nil {
			return err
		}
	}
	claim = claim.DeepCopy()
	claim.Finalizers = finalizers
	_, err := c.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
	return written(err, "claim")
}

// used asks the API too: the cache of pods may be behind that of claims.
func (c *claims) used(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
	for _, pod := range c.Pods.List(claim.Namespace, nil) {
		if uses(pod, claim) {
			return true, nil
		}
	}
	list, err := c.Client.CoreV1().Pods(claim.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list pods: %w", err)
	}
	return slices.ContainsFunc(list.Items, func(pod corev1.Pod) bool { return uses(&pod, claim) }), nil
}

// wanted is the finalizers of an object: with ours, and without it once it is
// being deleted.
func wanted(o metav1.Object, ours string) (finalizers []string, changed bool) {
	have := o.GetFinalizers()
	at := slices.Index(have, ours)
	switch {
	case o.GetDeletionTimestamp() != nil && at >= 0:
		return slices.Delete(slices.Clone(have), at, at+1), true
	case o.GetDeletionTimestamp() == nil && at < 0:
		return append(slices.Clone(have), ours), true
	}
	return have, false
}

func written(err error, what string) error {
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("write finalizers of a %s: %w", what, err)
}

// VolumeInputs is what the controller of volumes reads and writes with.
type VolumeInputs struct {
	Client  kubernetes.Interface
	Volumes *cache.Cache[corev1.PersistentVolume]
	Log     *slog.Logger
}

type volumes struct{ VolumeInputs }

// NewVolumes makes the controller of volumes. One is in use as long as it is bound.
func NewVolumes(in VolumeInputs) *loop.Loop {
	c := &volumes{in}
	l := loop.New("pv-protection-controller", in.Log, c.reconcile)
	loop.Watch(l, in.Volumes, loop.Self)
	return l
}

func (c *volumes) reconcile(ctx context.Context, key loop.Key) error {
	pv, ok := c.Volumes.Get("", key.Name)
	if !ok {
		return nil
	}
	finalizers, changed := wanted(pv, volumeFinalizer)
	if !changed || pv.DeletionTimestamp != nil && pv.Status.Phase == corev1.VolumeBound {
		return nil
	}
	pv = pv.DeepCopy()
	pv.Finalizers = finalizers
	_, err := c.Client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{})
	return written(err, "volume")
}
