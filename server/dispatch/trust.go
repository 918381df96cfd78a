package dispatch

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"bramble.dev/server/cache"
)

// trustNeeds calls add for every trust bundle that a pod names, and for signers of whom it takes bundles by their labels, now
// and later.
func trustNeeds(pod *corev1.Pod, o objects, add func(ref)) {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Projected == nil {
			continue
		}
		for _, s := range pod.Spec.Volumes[i].Projected.Sources {
			switch p := s.ClusterTrustBundle; {
			case p == nil:
			case p.Name != nil:
				add(ref{kind: trustBundle, name: *p.Name})
			case p.SignerName != nil:
				add(ref{kind: trustSigner, name: *p.SignerName})
				selector, err := metav1.LabelSelectorAsSelector(p.LabelSelector)
				if err != nil {
					continue // the node says so
				}
				for _, b := range o.trustBundles(*p.SignerName) {
					if selector.Matches(labels.Set(b.Labels)) {
						add(ref{kind: trustBundle, name: b.Name})
					}
				}
			}
		}
	}
}

func trimTrustBundle(in *certificatesv1beta1.ClusterTrustBundle) *certificatesv1.ClusterTrustBundle {
	out := &certificatesv1.ClusterTrustBundle{ObjectMeta: trimMeta(in.ObjectMeta)}
	out.Annotations = nil
	out.Spec = certificatesv1.ClusterTrustBundleSpec{SignerName: in.Spec.SignerName, TrustBundle: in.Spec.TrustBundle}
	return out
}

// trustChanged marks the nodes that a change of a bundle is about.
func (d *Dispatcher) trustChanged(x cache.Change[certificatesv1beta1.ClusterTrustBundle]) {
	d.contents.changed(ref{kind: trustBundle, name: x.Object().Name})
	for _, b := range []*certificatesv1beta1.ClusterTrustBundle{x.Old, x.New} {
		if b != nil && b.Spec.SignerName != "" {
			d.contents.changed(ref{kind: trustSigner, name: b.Spec.SignerName})
		}
	}
}

func (s state) trustBundle(name string) (*certificatesv1beta1.ClusterTrustBundle, bool) {
	return s.caches.ClusterTrustBundles().Get("", name)
}

func (s state) trustBundles(signer string) []*certificatesv1beta1.ClusterTrustBundle {
	return s.caches.ClusterTrustBundles().ByIndex("dispatch-signer", signerOf, signer)
}

func signerOf(b *certificatesv1beta1.ClusterTrustBundle) []string {
	if b.Spec.SignerName == "" {
		return nil
	}
	return []string{b.Spec.SignerName}
}
