package persistentvolume

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	storagehelpers "k8s.io/component-helpers/storage/volume"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"bramble.dev/link"
	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
	"bramble.dev/server/controllers/nodes"
	"bramble.dev/server/controllers/pods"
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client  kubernetes.Interface
	Events  record.EventRecorder
	Claims  *cache.Cache[corev1.PersistentVolumeClaim]
	Volumes *cache.Cache[corev1.PersistentVolume]
	Classes *cache.Cache[storagev1.StorageClass]
	Nodes   *cache.Cache[corev1.Node]
	Pods    *cache.Cache[corev1.Pod]
	Log     *slog.Logger
}

type controller struct {
	Inputs
	loop   *loop.Loop
	writes loop.Writes
}

// New makes the controller. Its keys are claims, and volumes, which have no
// namespace. One worker sees to all of them, because a decision about one claim
// must see what was decided about another.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in}
	c.loop = loop.New("persistentvolume-binder-controller", in.Log, c.reconcile).OneWorker()
	in.Volumes.ByIndex(byClaim, claimOf, "") // the index exists before the first change
	loop.Watch(c.loop, in.Volumes, c.keysOfVolume)
	loop.Watch(c.loop, in.Claims, c.keysOfClaim)
	loop.Watch(c.loop, in.Classes, c.keysOfClass)
	loop.Watch(c.loop, in.Nodes, c.keysOfNode)
	return c.loop
}

// byClaim finds the volumes that name a claim.
const byClaim = "claim"

func claimOf(pv *corev1.PersistentVolume) []string {
	if ref := pv.Spec.ClaimRef; ref != nil {
		return []string{ref.Namespace + "/" + ref.Name}
	}
	return nil
}

// keysOfVolume wakes the volume, the claim that it names, and, when it became
// free, the claims that wait for one like it.
func (c *controller) keysOfVolume(change cache.Change[corev1.PersistentVolume]) []loop.Key {
	keys := []loop.Key{{Name: change.Key().Name}}
	for _, pv := range []*corev1.PersistentVolume{change.Old, change.New} {
		if pv != nil && pv.Spec.ClaimRef != nil {
			keys = append(keys, loop.Key{Namespace: pv.Spec.ClaimRef.Namespace, Name: pv.Spec.ClaimRef.Name})
		}
	}
	for _, claim := range c.Claims.List("", nil) {
		asks := claim.Spec.VolumeName == change.Key().Name
		free := change.New != nil && change.New.Spec.ClaimRef == nil && claim.Spec.VolumeName == "" &&
			storagehelpers.GetPersistentVolumeClaimClass(claim) == storagehelpers.GetPersistentVolumeClass(change.New)
		if asks || free {
			keys = append(keys, loop.KeyOf(claim))
		}
	}
	return keys
}

// keysOfClaim wakes the claim, and the volumes of one that is gone or was bound.
func (c *controller) keysOfClaim(change cache.Change[corev1.PersistentVolumeClaim]) []loop.Key {
	key := change.Key()
	return append([]loop.Key{key}, loop.KeysOf(c.Volumes.ByIndex(byClaim, claimOf, key.String()))...)
}

// keysOfClass wakes the claims that wait for a class, or for a default.
func (c *controller) keysOfClass(change cache.Change[storagev1.StorageClass]) []loop.Key {
	var keys []loop.Key
	for _, claim := range c.Claims.List("", nil) {
		if class := storagehelpers.GetPersistentVolumeClaimClass(claim); claim.Spec.VolumeName == "" && (class == "" || class == change.Key().Name) {
			keys = append(keys, loop.KeyOf(claim))
		}
	}
	return keys
}

// keysOfNode wakes what waits for a node: volumes to be removed by one, and
// claims, when a node has come or can do more.
func (c *controller) keysOfNode(change cache.Change[corev1.Node]) []loop.Key {
	if change.Old != nil && change.New != nil && nodes.IsReady(change.Old) == nodes.IsReady(change.New) &&
		change.Old.Annotations[link.LocalVolumesAnnotation] == change.New.Annotations[link.LocalVolumesAnnotation] {
		return nil
	}
	var keys []loop.Key
	for _, pv := range c.Volumes.List("", nil) {
		if pv.Status.Phase == corev1.VolumeReleased || pv.Status.Phase == corev1.VolumeFailed {
			keys = append(keys, loop.KeyOf(pv))
		}
	}
	if change.New == nil || !nodes.IsReady(change.New) {
		return keys
	}
	for _, claim := range c.Claims.List("", nil) {
		if claim.Spec.VolumeName == "" && claim.Annotations[storagehelpers.AnnStorageProvisioner] == link.LocalProvisioner {
			keys = append(keys, loop.KeyOf(claim))
		}
	}
	return keys
}

// settled is the key of all own writes: each decision sees all of them.
var settled = loop.Key{}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	if err := c.writes.Settle(ctx, settled); err != nil {
		return err
	}
	s, err := c.plan(key)
	if err != nil {
		return err
	}
	if err := c.sure(ctx, s); err != nil {
		return err
	}
	if err := c.apply(ctx, s); err != nil {
		return err
	}
	for _, e := range s.events {
		c.Events.Event(e.about, e.kind, e.reason, e.message)
	}
	if s.also != nil {
		c.loop.Enqueue(loop.Key{Namespace: s.also.Namespace, Name: s.also.Name})
	}
	return nil
}

func (c *controller) plan(key loop.Key) (step, error) {
	if key.Namespace == "" {
		if pv := c.volume(key.Name); pv != nil {
			return planVolume(pv, c), nil
		}
		return step{}, nil
	}
	if claim := c.claim(key.Namespace, key.Name); claim != nil {
		return planClaim(claim, c)
	}
	return step{}, nil
}

// sure asks the API itself before something is said to be gone: the caches of
// claims and volumes are not of the same moment.
func (c *controller) sure(ctx context.Context, s step) error {
	switch {
	case s.verb == updateVolumeStatus && s.volume.Status.Phase == corev1.VolumeReleased:
		ref := s.volume.Spec.ClaimRef
		claim, err := c.Client.CoreV1().PersistentVolumeClaims(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err == nil && claim.UID == ref.UID && (claim.Spec.VolumeName == "" || claim.Spec.VolumeName == s.volume.Name) {
			return fmt.Errorf("claim %s/%s is not in the cache yet", ref.Namespace, ref.Name)
		}
		return notFound(err)
	case s.verb == updateClaimStatus && s.claim.Status.Phase == corev1.ClaimLost && s.claim.Spec.VolumeName != "":
		pv, err := c.Client.CoreV1().PersistentVolumes().Get(ctx, s.claim.Spec.VolumeName, metav1.GetOptions{})
		if err == nil && (pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID == s.claim.UID) {
			return fmt.Errorf("volume %s is not in the cache yet", pv.Name)
		}
		return notFound(err)
	}
	return nil
}

func notFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// apply does the write of a step.
func (c *controller) apply(ctx context.Context, s step) error {
	volumes := c.Client.CoreV1().PersistentVolumes()
	switch s.verb {
	case updateClaim:
		out, err := c.Client.CoreV1().PersistentVolumeClaims(s.claim.Namespace).Update(ctx, s.claim, metav1.UpdateOptions{})
		return loop.Wrote(&c.writes, settled, c.Claims, out, err)
	case updateClaimStatus:
		out, err := c.Client.CoreV1().PersistentVolumeClaims(s.claim.Namespace).UpdateStatus(ctx, s.claim, metav1.UpdateOptions{})
		return loop.Wrote(&c.writes, settled, c.Claims, out, err)
	case updateVolume:
		out, err := volumes.Update(ctx, s.volume, metav1.UpdateOptions{})
		return loop.Wrote(&c.writes, settled, c.Volumes, out, err)
	case updateVolumeStatus:
		out, err := volumes.UpdateStatus(ctx, s.volume, metav1.UpdateOptions{})
		return loop.Wrote(&c.writes, settled, c.Volumes, out, err)
	case createVolume:
		out, err := volumes.Create(ctx, s.volume, metav1.CreateOptions{})
		return loop.Wrote(&c.writes, settled, c.Volumes, out, err)
	case deleteVolume:
		return notFound(volumes.Delete(ctx, s.volume.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.volume.UID))}))
	}
	return nil
}

// The caches are the world of a plan.

func (c *controller) claim(namespace, name string) *corev1.PersistentVolumeClaim {
	claim, _ := c.Claims.Get(namespace, name)
	return claim
}

func (c *controller) volume(name string) *corev1.PersistentVolume {
	pv, _ := c.Volumes.Get("", name)
	return pv
}

func (c *controller) volumes() []*corev1.PersistentVolume {
	return byName(c.Volumes.List("", nil))
}

func (c *controller) class(name string) *storagev1.StorageClass {
	class, _ := c.Classes.Get("", name)
	return class
}

func (c *controller) defaultClass() *storagev1.StorageClass {
	return chooseDefault(c.Classes.List("", nil))
}

func (c *controller) node(name string) *corev1.Node {
	n, _ := c.Nodes.Get("", name)
	return n
}

func (c *controller) nodes() []*corev1.Node { return byName(c.Nodes.List("", nil)) }

func byName[T any](list []*T) []*T {
	name := func(o *T) string { return any(o).(metav1.Object).GetName() }
	slices.SortFunc(list, func(a, b *T) int { return cmp.Compare(name(a), name(b)) })
	return list
}

// chooseDefault is the newest class that is marked as the default.
func chooseDefault(classes []*storagev1.StorageClass) (best *storagev1.StorageClass) {
	newer := func(a, b *storagev1.StorageClass) bool {
		if at, bt := a.CreationTimestamp.Truncate(time.Second), b.CreationTimestamp.Truncate(time.Second); !at.Equal(bt) {
			return at.After(bt)
		}
		return a.Name < b.Name
	}
	for _, class := range classes {
		marked := class.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" || class.Annotations["storageclass.beta.kubernetes.io/is-default-class"] == "true"
		if marked && (best == nil || newer(class, best)) {
			best = class
		}
	}
	return best
}

func (c *controller) waitingPods(claim *corev1.PersistentVolumeClaim) (names []string) {
	for _, pod := range c.Pods.List(claim.Namespace, nil) {
		if pod.Spec.NodeName != "" || pods.IsFinished(pod) {
			continue
		}
		for i := range pod.Spec.Volumes {
			if name, ok := link.ClaimOf(pod, &pod.Spec.Volumes[i]); ok && name == claim.Name {
				names = append(names, pod.Name)
				break
			}
		}
	}
	slices.Sort(names)
	return names
}
