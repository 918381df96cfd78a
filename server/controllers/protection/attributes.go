package protection

import (
	"context"
	"log/slog"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

// AttributeInputs is what the controller of VolumeAttributesClasses reads and writes with.
type AttributeInputs struct {
	Client  kubernetes.Interface
	Classes *cache.Cache[storagev1.VolumeAttributesClass]
	Claims  *cache.Cache[corev1.PersistentVolumeClaim]
	Volumes *cache.Cache[corev1.PersistentVolume]
	Log     *slog.Logger
}

type attributes struct{ AttributeInputs }

// NewAttributes makes the controller of VolumeAttributesClasses. One is in use
// as long as a claim or a volume names it.
func NewAttributes(in AttributeInputs) *loop.Loop {
	c := &attributes{in}
	l := loop.New("vac-protection-controller", in.Log, c.reconcile)
	loop.Watch(l, in.Classes, loop.Self)
	loop.Watch(l, in.Claims, func(change cache.Change[corev1.PersistentVolumeClaim]) []loop.Key {
		return left(namesOfClaim(change.Old), namesOfClaim(change.New))
	})
	loop.Watch(l, in.Volumes, func(change cache.Change[corev1.PersistentVolume]) []loop.Key {
		return left(namesOfVolume(change.Old), namesOfVolume(change.New))
	})
	return l
}

// left are the classes that are no longer named.
func left(before, now map[string]bool) (keys []loop.Key) {
	for name := range before {
		if !now[name] {
			keys = append(keys, loop.Key{Name: name})
		}
	}
	return keys
}

func namesOfClaim(c *corev1.PersistentVolumeClaim) map[string]bool {
	names := map[string]bool{}
	if c == nil {
		return names
	}
	add(names, c.Spec.VolumeAttributesClassName)
	add(names, c.Status.CurrentVolumeAttributesClassName)
	if m := c.Status.ModifyVolumeStatus; m != nil {
		add(names, &m.TargetVolumeAttributesClassName)
	}
	return names
}

func namesOfVolume(pv *corev1.PersistentVolume) map[string]bool {
	names := map[string]bool{}
	if pv != nil {
		add(names, pv.Spec.VolumeAttributesClassName)
	}
	return names
}

func add(names map[string]bool, name *string) {
	if name != nil && *name != "" {
		names[*name] = true
	}
}

func (c *attributes) reconcile(ctx context.Context, key loop.Key) error {
	class, ok := c.Classes.Get("", key.Name)
	if !ok {
		return nil
	}
	finalizers, changed := wanted(class, classFinalizer)
	if !changed || class.DeletionTimestamp != nil && c.used(class.Name) {
		return nil
	}
	class = class.DeepCopy()
	class.Finalizers = finalizers
	_, err := c.Client.StorageV1().VolumeAttributesClasses().Update(ctx, class, metav1.UpdateOptions{})
	return written(err, "class")
}

func (c *attributes) used(name string) bool {
	for _, claim := range c.Claims.List("", nil) {
		if namesOfClaim(claim)[name] {
			return true
		}
	}
	for _, pv := range c.Volumes.List("", nil) {
		if namesOfVolume(pv)[name] {
			return true
		}
	}
	return false
}
