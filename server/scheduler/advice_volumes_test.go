package scheduler

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storagehelpers "k8s.io/component-helpers/storage/volume"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"bramble.dev/link"
)

// shelf is a storage in memory.
type shelf struct {
	claims  map[string]*corev1.PersistentVolumeClaim
	volumes map[string]*corev1.PersistentVolume
	classes map[string]*storagev1.StorageClass
	user    *corev1.Pod
}

func (s shelf) Claim(_, name string) (*corev1.PersistentVolumeClaim, bool) {
	c, ok := s.claims[name]
	return c, ok
}

func (s shelf) Volume(name string) (*corev1.PersistentVolume, bool) {
	v, ok := s.volumes[name]
	return v, ok
}

func (s shelf) Volumes() (out []*corev1.PersistentVolume) {
	for _, v := range s.volumes {
		out = append(out, v)
	}
	return out
}

func (s shelf) Class(name string) (*storagev1.StorageClass, bool) {
	c, ok := s.classes[name]
	return c, ok
}

func (s shelf) Used(*corev1.PersistentVolumeClaim, *corev1.Pod) *corev1.Pod { return s.user }

// What a pod that waits for a volume is told beside upstream's words.
func TestAdviceOnVolumes(t *testing.T) {
	claim := func(class string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data", Annotations: map[string]string{}}}
		c.Spec.StorageClassName, c.Spec.AccessModes = &class, []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("5Gi")}
		for _, f := range change {
			f(c)
		}
		return c
	}
	asks := func(pv string) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = pv }
	}
	bound := func(c *corev1.PersistentVolumeClaim) {
		c.Spec.VolumeName, c.Annotations[storagehelpers.AnnBindCompleted] = "pv", "yes"
	}
	mode := func(m corev1.PersistentVolumeAccessMode) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes[0] = m }
	}
	on := func(host string) *corev1.PersistentVolume {
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}}
		pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}},
		}}}}
		return pv
	}
	ofOther := on("a")
	ofOther.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "other", Name: "theirs", UID: "1"}
	delayed, immediate := storagev1.VolumeBindingWaitForFirstConsumer, storagev1.VolumeBindingImmediate
	classes := map[string]*storagev1.StorageClass{
		"local":  {ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: link.LocalProvisioner, VolumeBindingMode: &delayed},
		"manual": {ObjectMeta: metav1.ObjectMeta{Name: "manual"}, Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: &delayed},
		"cloud":  {ObjectMeta: metav1.ObjectMeta{Name: "cloud"}, Provisioner: "example.com/disk", VolumeBindingMode: &immediate},
	}
	const immediateWords = "pod has unbound immediate PersistentVolumeClaims"
	for _, tt := range []struct {
		name    string
		claim   *corev1.PersistentVolumeClaim
		volume  *corev1.PersistentVolume
		user    *corev1.Pod
		message string
		want    string
	}{
		{name: "a volume that is not there", claim: claim("", asks("pv")), message: immediateWords, want: "Claim data asks for the volume pv, which does not exist."},
		{name: "a volume of another", claim: claim("", asks("pv")), volume: ofOther, message: immediateWords, want: "Claim data asks for the volume pv, which belongs to claim other/theirs."},
		{name: "no class", claim: claim(""), message: immediateWords,
			want: "Claim data has no storage class, and no free volume fits it (5Gi, ReadWriteOnce): make one, or a claim with a class."},
		{name: "a class that is not there", claim: claim("longhorn"), message: immediateWords,
			want: "Claim data is of the storage class longhorn, which does not exist, and no free volume of that class fits it (5Gi, ReadWriteOnce)."},
		{name: "another's provisioner", claim: claim("cloud"), message: immediateWords,
			want: "Claim data waits for a volume from example.com/disk (kubectl describe pvc data says more)."},
		{name: "for many nodes", claim: claim("local", mode(corev1.ReadWriteMany)),
			want: "Claim data cannot be met: a folder of one node cannot be mounted by many (ReadWriteMany, ReadOnlyMany): ask for ReadWriteOnce, or use a class with provisioner bramble.dev/nfs."},
		{name: "made by hand", claim: claim("manual"),
			want: "Claim data is of the storage class manual, whose volumes are made by hand: none is free on these nodes and fits it (5Gi, ReadWriteOnce)."},
		{name: "can be made", claim: claim("local")},
		{name: "on one node", claim: claim("local", bound), volume: on("a"), want: "The volume of claim data is on a."},
		{name: "on a node that is gone", claim: claim("local", bound), volume: on("gone"),
			want: "The volume of claim data (pv) is on none of the nodes: it asks for kubernetes.io/hostname in (gone)."},
		{name: "of one pod", claim: claim("local", bound, mode(corev1.ReadWriteOncePod)), volume: on("a"), user: pod("first", "1"),
			want: "The volume of claim data is on a. Pod first has a claim of it that only one pod may use at a time (ReadWriteOncePod)."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := shelf{claims: map[string]*corev1.PersistentVolumeClaim{"data": tt.claim}, volumes: map[string]*corev1.PersistentVolume{}, classes: classes, user: tt.user}
			if tt.volume != nil {
				s.volumes["pv"] = tt.volume
			}
			nodes := newState(link.ClusterConfig{})
			for _, name := range []string{"a", "b"} {
				n := node(name, 4, 4)
				n.Labels = map[string]string{corev1.LabelHostname: name}
				nodes.setNode(n)
			}
			p := newCandidate(pod("p", "1", func(p *corev1.Pod) {
				p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
			}))
			var message string
			p.volumes, message = volumesOf(p.pod, s)
			got := p.volumes.advice
			if message == "" {
				got = advice(p, nodes.listed)
			}
			if got != tt.want || message != tt.message {
				t.Errorf("got  %q (%s)\nwant %q (%s)", got, message, tt.want, tt.message)
			}
		})
	}
}

// The claim of an ephemeral volume is the pod's own, or it is not the volume's.
func TestEphemeralClaimOfAnother(t *testing.T) {
	p := pod("p", "1", func(p *corev1.Pod) {
		p.UID = "mine"
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
	})
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: "p-v"}}
	claim.Spec.VolumeName = "pv"
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, storagehelpers.AnnBindCompleted, "yes")
	s := shelf{claims: map[string]*corev1.PersistentVolumeClaim{"p-v": claim}}
	if _, message := volumesOf(p, s); !strings.HasSuffix(message, "p-v was not created for pod default/p (pod is not owner)") {
		t.Errorf("told %q", message)
	}
	claim.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(p, corev1.SchemeGroupVersion.WithKind("Pod"))}
	if out, message := volumesOf(p, s); message != "" || len(out.all) != 1 {
		t.Errorf("its own: told %q", message)
	}
}
