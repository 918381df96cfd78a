package persistentvolume

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	storagehelpers "k8s.io/component-helpers/storage/volume"
	"pgregory.net/rapid"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"bramble.dev/link"
)

func ptr[T any](v T) *T { return &v }

// cluster is an API with claims and volumes, in memory, and nodes that remove
// what they are asked to.
type cluster struct {
	t       *rapid.T
	claims  map[string]*corev1.PersistentVolumeClaim
	pvs     map[string]*corev1.PersistentVolume
	classes map[string]*storagev1.StorageClass
	boards  map[string]*corev1.Node
	made    int
	// owners are the claims whose data lies in a volume, by the volume's UID; they
	// stay when the claim is gone.
	owners map[types.UID]types.UID
	events map[string]int
}

func (w *cluster) claim(_, name string) *corev1.PersistentVolumeClaim { return w.claims[name] }
func (w *cluster) volume(name string) *corev1.PersistentVolume        { return w.pvs[name] }
func (w *cluster) volumes() []*corev1.PersistentVolume                { return sorted(w.pvs) }
func (w *cluster) class(name string) *storagev1.StorageClass          { return w.classes[name] }
func (w *cluster) defaultClass() *storagev1.StorageClass              { return chooseDefault(sorted(w.classes)) }
func (w *cluster) node(name string) *corev1.Node                      { return w.boards[name] }
func (w *cluster) nodes() []*corev1.Node                              { return sorted(w.boards) }
func (w *cluster) waitingPods(*corev1.PersistentVolumeClaim) []string { return nil }

func sorted[T any](m map[string]*T) (out []*T) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}

func board(name string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}, Annotations: map[string]string{link.LocalVolumesAnnotation: "/data/volumes"}},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}
}

func class(name, provisioner string, mode storagev1.VolumeBindingMode, policy corev1.PersistentVolumeReclaimPolicy) *storagev1.StorageClass {
	c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode, ReclaimPolicy: &policy}
	if provisioner == link.NFSProvisioner {
		c.Parameters = map[string]string{"server": "nas", "share": "/srv"}
	}
	return c
}

func newCluster(t *rapid.T) *cluster {
	return &cluster{
		t: t, claims: map[string]*corev1.PersistentVolumeClaim{}, pvs: map[string]*corev1.PersistentVolume{}, owners: map[types.UID]types.UID{}, events: map[string]int{},
		classes: map[string]*storagev1.StorageClass{
			"local": class("local", link.LocalProvisioner, storagev1.VolumeBindingWaitForFirstConsumer, corev1.PersistentVolumeReclaimDelete),
			"nfs":   class("nfs", link.NFSProvisioner, storagev1.VolumeBindingImmediate, corev1.PersistentVolumeReclaimDelete),
			"kept":  class("kept", link.NFSProvisioner, storagev1.VolumeBindingImmediate, corev1.PersistentVolumeReclaimRetain),
			"cloud": class("cloud", "kubernetes.io/aws-ebs", storagev1.VolumeBindingImmediate, corev1.PersistentVolumeReclaimDelete),
		},
		boards: map[string]*corev1.Node{"a": board("a"), "b": board("b")},
	}
}

func (w *cluster) uid() types.UID {
	w.made++
	return types.UID(fmt.Sprintf("00000000-0000-0000-0000-%012x", w.made))
}

// step does what a reconcile of a key does; it says whether it wrote.
func (w *cluster) step(key string, isClaim bool) bool {
	var s step
	if isClaim {
		c := w.claims[key]
		if c == nil {
			return false
		}
		var err error
		if s, err = planClaim(c, w); err != nil {
			w.t.Fatalf("%s: %v", key, err)
		}
	} else if pv := w.pvs[key]; pv != nil {
		s = planVolume(pv, w)
	}
	switch s.verb {
	case rest:
	case updateClaim, updateClaimStatus:
		w.claims[s.claim.Name] = s.claim
	case updateVolume, updateVolumeStatus:
		w.pvs[s.volume.Name] = s.volume
		w.drop(s.volume.Name)
	case createVolume:
		if w.pvs[s.volume.Name] != nil {
			w.t.Fatalf("volume %s is made twice", s.volume.Name)
		}
		s.volume.UID = w.uid()
		w.pvs[s.volume.Name] = s.volume
		w.owners[s.volume.UID] = s.volume.Spec.ClaimRef.UID
	case deleteVolume:
		w.pvs[s.volume.Name].DeletionTimestamp = ptr(metav1.Now())
		w.drop(s.volume.Name)
	}
	for _, e := range s.events {
		w.events[e.reason]++
	}
	return s.verb != rest
}

// drop removes a volume that is being deleted and that nothing keeps.
func (w *cluster) drop(name string) {
	if pv := w.pvs[name]; pv != nil && pv.DeletionTimestamp != nil && len(pv.Finalizers) == 0 && pv.Status.Phase != corev1.VolumeBound {
		delete(w.pvs, name)
	}
}

// removed is a node's report.
func (w *cluster) removed(name string) {
	pv := w.pvs[name]
	if pv == nil || link.Removes(pv) == "" {
		return
	}
	for _, c := range w.claims {
		if c.UID == w.owners[pv.UID] {
			w.t.Fatalf("the data of claim %s is removed from under it", c.Name)
		}
	}
	if pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		w.t.Fatalf("the data of volume %s is removed, against its policy", name)
	}
	pv = pv.DeepCopy()
	metav1.SetMetaDataAnnotation(&pv.ObjectMeta, link.VolumeRemovedAnnotation, "a")
	w.pvs[name] = pv
}

func (w *cluster) check() {
	has := map[string]string{}
	for _, c := range sorted(w.claims) {
		if c.Status.Phase != corev1.ClaimBound {
			continue
		}
		if other, ok := has[c.Spec.VolumeName]; ok {
			w.t.Fatalf("claims %s and %s are bound to volume %s", other, c.Name, c.Spec.VolumeName)
		}
		has[c.Spec.VolumeName] = c.Name
		if pv := w.pvs[c.Spec.VolumeName]; pv != nil && (pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != c.UID) {
			w.t.Fatalf("claim %s is bound to volume %s, which is not bound to it", c.Name, pv.Name)
		}
	}
}

// settle reconciles everything until nothing is written any more.
func (w *cluster) settle() {
	for range 200 {
		wrote := false
		for _, name := range slices.Sorted(maps.Keys(w.claims)) {
			wrote = w.step(name, true) || wrote
			w.check()
		}
		for _, name := range slices.Sorted(maps.Keys(w.pvs)) {
			wrote = w.step(name, false) || wrote
			w.check()
		}
		if !wrote {
			return
		}
	}
	w.t.Fatalf("it never comes to rest")
}

func (w *cluster) newClaim(name string, class *string, size, volume string) {
	w.claims[name] = &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: w.uid()},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: class, VolumeName: volume,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
}

func (w *cluster) newVolume(name, class, size, reserved string) {
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: w.uid()},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: class, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumePending},
	}
	if reserved != "" {
		pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: reserved}
	}
	w.pvs[name] = pv
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newCluster(t)
		claim := func() string { return rapid.SampledFrom([]string{"c1", "c2", "c3"}).Draw(t, "claim") }
		volume := func() string { return rapid.SampledFrom([]string{"v1", "v2"}).Draw(t, "volume") }
		any := func() string {
			if len(w.pvs) == 0 {
				return ""
			}
			return rapid.SampledFrom(slices.Sorted(maps.Keys(w.pvs))).Draw(t, "any volume")
		}
		size := func() string { return rapid.SampledFrom([]string{"1Gi", "2Gi", "3Gi"}).Draw(t, "size") }
		t.Repeat(map[string]func(*rapid.T){
			"new claim": func(t *rapid.T) {
				if name := claim(); w.claims[name] == nil {
					class := rapid.SampledFrom([]*string{nil, ptr(""), ptr("local"), ptr("nfs"), ptr("kept"), ptr("cloud"), ptr("none")}).Draw(t, "class")
					w.newClaim(name, class, size(), rapid.SampledFrom([]string{"", "", "", "v1"}).Draw(t, "asked for"))
				}
			},
			"new volume": func(t *rapid.T) {
				if name := volume(); w.pvs[name] == nil {
					w.newVolume(name, rapid.SampledFrom([]string{"", "local"}).Draw(t, "class"), size(), rapid.SampledFrom([]string{"", "", "c1"}).Draw(t, "reserved"))
				}
			},
			"delete claim": func(*rapid.T) { delete(w.claims, claim()) },
			"delete volume": func(*rapid.T) {
				if pv := w.pvs[any()]; pv != nil {
					pv = pv.DeepCopy()
					pv.DeletionTimestamp = ptr(metav1.Now())
					w.pvs[pv.Name] = pv
					w.drop(pv.Name)
				}
			},
			"pod is scheduled": func(t *rapid.T) {
				if c := w.claims[claim()]; c != nil && c.Spec.VolumeName == "" {
					c = c.DeepCopy()
					metav1.SetMetaDataAnnotation(&c.ObjectMeta, storagehelpers.AnnSelectedNode, rapid.SampledFrom([]string{"a", "b", "gone"}).Draw(t, "node"))
					w.claims[c.Name] = c
				}
			},
			"grow": func(*rapid.T) {
				if c := w.claims[claim()]; c != nil && c.Status.Phase == corev1.ClaimBound {
					c = c.DeepCopy()
					c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("5Gi")
					w.claims[c.Name] = c
				}
			},
			"keep instead":  func(*rapid.T) { w.policy(any(), corev1.PersistentVolumeReclaimRetain) },
			"remove then":   func(*rapid.T) { w.policy(any(), corev1.PersistentVolumeReclaimDelete) },
			"node removes":  func(*rapid.T) { w.removed(any()) },
			"claim's turn":  func(*rapid.T) { w.step(claim(), true) },
			"volume's turn": func(*rapid.T) { w.step(any(), false) },
			"":              func(*rapid.T) { w.check() },
		})
		w.settle()
		for _, name := range slices.Sorted(maps.Keys(w.pvs)) {
			w.removed(name)
		}
		w.settle()
		for _, pv := range w.volumes() {
			if _, ours := link.Provisioned(pv); ours && pv.Annotations[link.VolumeRemovedAnnotation] != "" {
				t.Fatalf("volume %s is still there although its data is gone", pv.Name)
			}
		}
	})
}

func (w *cluster) policy(name string, p corev1.PersistentVolumeReclaimPolicy) {
	if pv := w.pvs[name]; pv != nil && pv.Annotations[link.VolumeRemovedAnnotation] == "" {
		pv = pv.DeepCopy()
		pv.Spec.PersistentVolumeReclaimPolicy = p
		w.pvs[name] = pv
	}
}
