package persistentvolume

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storagehelpers "k8s.io/component-helpers/storage/volume"
	"pgregory.net/rapid"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
)

// inWorld runs a test on a fresh cluster, whose failures want rapid's T.
func inWorld(t *testing.T, f func(*testing.T, *cluster)) {
	t.Helper()
	f(t, newCluster((*rapid.T)(nil)))
}

func TestClaims(t *testing.T) {
	mark := func(c *corev1.PersistentVolumeClaim, node string) {
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, storagehelpers.AnnSelectedNode, node)
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, storagehelpers.AnnStorageProvisioner, link.LocalProvisioner)
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, storagehelpers.AnnBetaStorageProvisioner, link.LocalProvisioner)
	}
	for _, tt := range []struct {
		name    string
		class   *string
		asked   string // volume
		prepare func(*cluster, *corev1.PersistentVolumeClaim)
		verb    verb
		reason  string
		message string
	}{
		{name: "no class and no volume", class: ptr(""), reason: failedBinding, message: "no persistent volumes available for this claim and no storage class is set"},
		{name: "the default class comes later", prepare: func(w *cluster, _ *corev1.PersistentVolumeClaim) {
			w.classes["local"].Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
		}, verb: updateClaim},
		{name: "no pod yet", class: ptr("local"), reason: waitForFirstConsumer, message: "waiting for first consumer to be created before binding"},
		{name: "a cloud's class", class: ptr("cloud"), prepare: func(_ *cluster, c *corev1.PersistentVolumeClaim) {
			metav1.SetMetaDataAnnotation(&c.ObjectMeta, storagehelpers.AnnStorageProvisioner, "ebs.csi.aws.com")
			metav1.SetMetaDataAnnotation(&c.ObjectMeta, storagehelpers.AnnBetaStorageProvisioner, "ebs.csi.aws.com")
		}, reason: externalProvisioning, message: "Bramble has no driver for kubernetes.io/aws-ebs, which is for disks of Amazon's cloud: use a class with provisioner bramble.dev/local"},
		{name: "a class that is not there", class: ptr("none"), reason: provisioningFailed, message: `storageclass.storage.k8s.io "none" not found`},
		{name: "a node was chosen", class: ptr("local"), prepare: func(_ *cluster, c *corev1.PersistentVolumeClaim) { mark(c, "a") }, verb: createVolume,
			reason: provisioningSucceeded, message: "Successfully provisioned volume pvc-"},
		{name: "the node is gone", class: ptr("local"), prepare: func(_ *cluster, c *corev1.PersistentVolumeClaim) { mark(c, "gone") }, verb: updateClaim,
			reason: provisioningFailed, message: `node "gone" not found`},
		{name: "for many nodes", class: ptr("local"), prepare: func(_ *cluster, c *corev1.PersistentVolumeClaim) {
			mark(c, "a")
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		}, reason: provisioningFailed, message: "a folder of one node cannot be mounted by many"},
		{name: "for many nodes, and no pod yet", class: ptr("local"), prepare: func(_ *cluster, c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		}, reason: provisioningFailed, message: `Failed to provision volume with StorageClass "local": a folder of one node cannot be mounted by many`},
		{name: "for many nodes, and there is such a volume", class: ptr("local"), prepare: func(w *cluster, c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
			w.newVolume("v1", "local", "1Gi", "")
			w.pvs["v1"].Status.Phase, w.pvs["v1"].Spec.AccessModes = corev1.VolumeAvailable, c.Spec.AccessModes
		}, reason: waitForFirstConsumer, message: "waiting for first consumer to be created before binding"},
		{name: "a volume that is too small", class: ptr(""), asked: "v1", prepare: func(w *cluster, _ *corev1.PersistentVolumeClaim) { w.newVolume("v1", "", "1Mi", "") },
			reason: volumeMismatch, message: `Cannot bind to requested volume "v1": requested PV is too small`},
		{name: "somebody else's volume", class: ptr(""), asked: "v1", prepare: func(w *cluster, _ *corev1.PersistentVolumeClaim) { w.newVolume("v1", "", "1Gi", "other") },
			reason: failedBinding, message: `volume "v1" already bound to a different claim.`},
		{name: "a free volume", class: ptr(""), prepare: func(w *cluster, _ *corev1.PersistentVolumeClaim) {
			w.newVolume("v1", "", "1Gi", "")
			w.pvs["v1"].Status.Phase = corev1.VolumeAvailable
		}, verb: updateVolume},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *cluster) {
				w.newClaim("c", tt.class, "1Gi", tt.asked)
				if tt.prepare != nil {
					tt.prepare(w, w.claims["c"])
				}
				s, err := planClaim(w.claims["c"], w)
				if err != nil {
					t.Fatal(err)
				}
				if s.verb != tt.verb {
					t.Errorf("verb %d, want %d", s.verb, tt.verb)
				}
				told := event{}
				if len(s.events) > 0 {
					told = s.events[0]
				}
				if told.reason != tt.reason || !strings.Contains(told.message, tt.message) {
					t.Errorf("told %s: %s\nwant %s: %s", told.reason, told.message, tt.reason, tt.message)
				}
			})
		})
	}
}

// Of the volumes that fit, the one that can do the least beyond what is asked for, and of those the smallest.
func TestBestMatch(t *testing.T) {
	inWorld(t, func(t *testing.T, w *cluster) {
		w.newClaim("c", ptr(""), "2Gi", "")
		for name, size := range map[string]string{"small": "1Gi", "fits": "3Gi", "large": "9Gi"} {
			w.newVolume(name, "", size, "")
			w.pvs[name].Status.Phase = corev1.VolumeAvailable
		}
		w.newVolume("many", "", "2Gi", "")
		w.pvs["many"].Status.Phase = corev1.VolumeAvailable
		w.pvs["many"].Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadWriteMany}
		got, err := bestMatch(w.claims["c"], w.volumes(), false)
		if err != nil || got == nil || got.Name != "fits" {
			t.Fatalf("got %v, %v", got, err)
		}
	})
}

// A claim that is made, used, grown and deleted leaves nothing, once a node has removed what was in its volume.
func TestLife(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newCluster(t)
		w.newClaim("c", ptr("nfs"), "1Gi", "")
		w.settle()
		c := w.claims["c"]
		pv := w.pvs[volumeName(c)]
		if c.Status.Phase != corev1.ClaimBound || pv == nil || pv.Status.Phase != corev1.VolumeBound || pv.Spec.NFS.Path != "/srv/default-c-"+pv.Name {
			t.Fatalf("claim %+v, volume %+v", c, pv)
		}
		c = c.DeepCopy()
		c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("5Gi")
		w.claims["c"] = c
		w.settle()
		if now := w.claims["c"].Status.Capacity[corev1.ResourceStorage]; now.String() != "5Gi" {
			t.Fatalf("it has %s", now.String())
		}
		delete(w.claims, "c")
		w.settle()
		if pv = w.pvs[pv.Name]; pv == nil || pv.Status.Phase != corev1.VolumeReleased || link.Removes(pv) != "a" {
			t.Fatalf("nobody removes %+v", pv)
		}
		delete(w.boards, "a") // another node does it then
		w.settle()
		if pv = w.pvs[pv.Name]; link.Removes(pv) != "b" {
			t.Fatalf("nobody removes %+v", pv)
		}
		w.removed(pv.Name)
		w.settle()
		if len(w.pvs) != 0 {
			t.Fatalf("left: %v", w.pvs)
		}
	})
}

// A volume whose node was taken out of the cluster says so, and goes when a person deletes it.
func TestNodeGone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newCluster(t)
		w.newClaim("c", ptr("local"), "1Gi", "")
		metav1.SetMetaDataAnnotation(&w.claims["c"].ObjectMeta, storagehelpers.AnnSelectedNode, "b")
		w.settle()
		name := w.claims["c"].Spec.VolumeName
		delete(w.boards, "b")
		delete(w.claims, "c")
		w.settle()
		pv := w.pvs[name]
		if pv == nil || pv.Status.Phase != corev1.VolumeFailed || !strings.Contains(pv.Status.Message, "on node b, which is not in the cluster any more") {
			t.Fatalf("the volume says %+v", pv)
		}
		if w.events["VolumeFailedDelete"] != 1 {
			t.Fatalf("told %d times", w.events["VolumeFailedDelete"])
		}
		w.pvs[name].DeletionTimestamp = ptr(metav1.Now())
		w.settle()
		if len(w.pvs) != 0 {
			t.Fatalf("left: %v", w.pvs)
		}
	})
}

// What a person's volume is called or annotated with never has a node remove a folder that a person made.
func TestProvisioned(t *testing.T) {
	const name = "pvc-00000000-0000-0000-0000-000000000001"
	for path, want := range map[string]bool{
		"/data/volumes/" + name: true, "/data": false, "/": false, "/data/volumes/" + name + "/..": false, "/home/anna/" + name: true,
	} {
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{storagehelpers.AnnDynamicallyProvisioned: link.LocalProvisioner}}}
		pv.Spec.Local = &corev1.LocalVolumeSource{Path: path}
		if _, got := link.Provisioned(pv); got != want {
			t.Errorf("%s: %v", path, got)
		}
		pv.Name = "home"
		if _, got := link.Provisioned(pv); got {
			t.Errorf("%s under another name", path)
		}
	}
}
