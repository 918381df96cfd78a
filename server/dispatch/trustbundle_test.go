package dispatch

import (
	"fmt"
	"slices"
	"testing"

	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// trusting has trust bundles and nothing else.
type trusting struct {
	whole
	bundles []*certificatesv1beta1.ClusterTrustBundle
}

func (t trusting) trustBundles(signer string) (out []*certificatesv1beta1.ClusterTrustBundle) {
	for _, b := range t.bundles {
		if b.Spec.SignerName == signer {
			out = append(out, b)
		}
	}
	return out
}

// TestTrustNeeds: a node is sent what its pods name, and follows the signers whose bundles they choose by labels.
func TestTrustNeeds(t *testing.T) {
	bundle := func(name, signer, label string) *certificatesv1beta1.ClusterTrustBundle {
		b := &certificatesv1beta1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"l": label}}}
		b.Spec.SignerName = signer
		return b
	}
	o := trusting{bundles: []*certificatesv1beta1.ClusterTrustBundle{bundle("a", "", "x"), bundle("s:b", "s", "x"), bundle("s:c", "s", "y"), bundle("t:d", "t", "x")}}
	name, signer, other := "a", "s", "t"
	pod := &corev1.Pod{}
	pod.Spec.Volumes = []corev1.Volume{{}, {VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{},
		{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: &name}},
		{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{SignerName: &signer, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"l": "x"}}}},
		{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{SignerName: &other}}, // no selector means none
	}}}}}
	var got []string
	trustNeeds(pod, o, func(r ref) { got = append(got, fmt.Sprintf("%d %s", r.kind, r.name)) })
	want := []string{fmt.Sprintf("%d a", trustBundle), fmt.Sprintf("%d s", trustSigner), fmt.Sprintf("%d s:b", trustBundle), fmt.Sprintf("%d t", trustSigner)}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
