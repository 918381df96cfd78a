package storage

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// trustFile holds the authorities of the bundles that a projection names (KEP-3257), each once.
func (v volume) trustFile(p *corev1.ClusterTrustBundleProjection, mode int32) (files, error) {
	bundles, err := chosen(v.objects.ClusterTrustBundles(), p)
	if err != nil {
		return nil, err
	}
	return files{p.Path: v.credential(anchors(bundles), mode)}, nil
}

// chosen are the bundles that a projection means: the one with a name, or a signer's with labels. No selector at all means none.
func chosen(all []*certificatesv1.ClusterTrustBundle, p *corev1.ClusterTrustBundleProjection) (out []*certificatesv1.ClusterTrustBundle, err error) {
	selector, err := metav1.LabelSelectorAsSelector(p.LabelSelector)
	if err != nil {
		return nil, fmt.Errorf("while parsing label selector: %w", err)
	}
	for _, b := range all {
		if p.Name != nil && b.Name == *p.Name || p.Name == nil && p.SignerName != nil && b.Spec.SignerName == *p.SignerName && selector.Matches(labels.Set(b.Labels)) {
			out = append(out, b)
		}
	}
	optional := p.Optional != nil && *p.Optional
	switch {
	case len(out) > 0 || optional:
		return out, nil
	case p.Name != nil:
		return nil, fmt.Errorf("while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io %q not found", *p.Name)
	case p.SignerName != nil:
		return nil, fmt.Errorf("combination of signerName and labelSelector matched zero ClusterTrustBundles")
	}
	return nil, fmt.Errorf("ClusterTrustBundle projection requires either name or signerName to be set")
}

// order decides in which order authorities are written. It is another one in each process, as upstream has it, so that nobody
// relies on it; within one it stays, so that a file changes only when its content does.
var order = func() (seed [16]byte) {
	_, _ = rand.Read(seed[:])
	return seed
}()

// anchors are the certificates of bundles, each once, and nothing else that stands in them.
func anchors(bundles []*certificatesv1.ClusterTrustBundle) []byte {
	place := map[string][sha256.Size]byte{} // by certificate
	for _, b := range bundles {
		rest := []byte(b.Spec.TrustBundle)
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			place[string(block.Bytes)] = sha256.Sum256(append(order[:len(order):len(order)], block.Bytes...))
		}
	}
	var out bytes.Buffer
	for _, der := range slices.SortedFunc(maps.Keys(place), func(a, b string) int {
		x, y := place[a], place[b]
		return bytes.Compare(x[:], y[:])
	}) {
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: []byte(der)}) // a buffer takes all
	}
	return out.Bytes()
}
