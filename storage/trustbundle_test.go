package storage

import (
	"context"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func bundle(name, signer, label string, certificates ...string) *certificatesv1.ClusterTrustBundle {
	b := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"l": label}}}
	b.Spec.SignerName = signer
	for _, c := range certificates {
		b.Spec.TrustBundle += "a comment\n" + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"Not": "needed"}, Bytes: []byte(c)}))
	}
	return b
}

func TestChosenBundles(t *testing.T) {
	all := []*certificatesv1.ClusterTrustBundle{bundle("a", "", "x", "1", "2"), bundle("s:b", "s", "x", "2", "3"), bundle("s:c", "s", "y", "4"), bundle("t:d", "t", "x", "5")}
	name, none, signer, yes := "a", "none", "s", true
	for want, p := range map[string]corev1.ClusterTrustBundleProjection{
		"1 2":   {Name: &name},
		"2 3 4": {SignerName: &signer, LabelSelector: &metav1.LabelSelector{}},
		"2 3":   {SignerName: &signer, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"l": "x"}}},
		"":      {SignerName: &signer, Optional: &yes},
		"while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"none\" not found": {Name: &none},
		"combination of signerName and labelSelector matched zero ClusterTrustBundles":                {SignerName: &signer},
		"ClusterTrustBundle projection requires either name or signerName to be set":                  {},
	} {
		chosen, err := chosen(all, &p)
		if err != nil {
			if err.Error() != want {
				t.Errorf("%q, want %q", err, want)
			}
			continue
		}
		content := anchors(chosen)
		if string(content) != string(anchors(chosen)) || strings.Contains(string(content), "comment") || strings.Contains(string(content), "Not") {
			t.Errorf("%s", content)
		}
		found := map[string]bool{}
		for {
			var b *pem.Block
			if b, content = pem.Decode(content); b == nil {
				break
			}
			if found[string(b.Bytes)] {
				t.Errorf("%s is there twice", b.Bytes)
			}
			found[string(b.Bytes)] = true
		}
		for _, c := range strings.Fields(want) {
			if !found[c] {
				t.Errorf("%q has not %s", want, c)
			}
		}
		if len(found) != len(strings.Fields(want)) {
			t.Errorf("%q: %v", want, found)
		}
	}
}

func TestTrustBundleIsFollowed(t *testing.T) {
	objects := &cluster{bundles: []*certificatesv1.ClusterTrustBundle{bundle("a", "", "", "1")}}
	v, err := Open(t.TempDir(), t.TempDir(), objects, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	name := "a"
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "trusts"}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "ca", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: &name, Path: "etc/ca.pem"}},
	}}}}}
	paths, err := v.Mount(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Unmount(context.Background(), pod.UID) })
	read := func() string {
		b, err := os.ReadFile(filepath.Join(paths["ca"], "etc/ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	before := read()
	objects.bundles = []*certificatesv1.ClusterTrustBundle{bundle("a", "", "", "1", "2")}
	if err := v.Refresh(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if after := read(); after == before || strings.Count(after, "BEGIN") != 2 {
		t.Errorf("%q", after)
	}
	objects.bundles = nil // what is missing now stays as it was
	if err := v.Refresh(t.Context(), pod); err == nil || strings.Count(read(), "BEGIN") != 2 {
		t.Errorf("%v", err)
	}
}
