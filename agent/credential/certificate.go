package credential

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// How a certificate is had. Signers are pods or people: one may take long, and the pod waits for it.
const (
	pollFirst, pollLast = 100 * time.Millisecond, 2 * time.Second
	pollFor             = 10 * time.Second // then the volume says that it waits, and is tried again
	pollRenewal         = time.Second      // the pod's worker waits meanwhile, and has a certificate: it looks again when that is next due
	renewalSpread       = 5 * time.Minute  // by which pods made at once ask at different times
)

// errNotIssued is upstream's word for it.
var errNotIssued = errors.New("credential bundle is not issued yet")

// asked is a certificate that was asked for. It is not kept over a restart of the agent, which asks anew.
type asked struct {
	name    string // of the PodCertificateRequest
	key     []byte // PEM
	refused error  // for good: nothing more is asked for the pod
}

// Certificate returns the private key and the chain of certificates, both PEM, of a pod for a projection.
func (t *Credentials) Certificate(ctx context.Context, pod *corev1.Pod, p *corev1.PodCertificateProjection) (key, chain []byte, err error) {
	k := certificateKey(pod, p)
	bundle, err := t.get(ctx, pod, k, func(ctx context.Context) (entry, error) { return t.requestCertificate(ctx, pod, p, k) })
	if err != nil {
		return nil, nil, err
	}
	block, rest := pem.Decode([]byte(bundle))
	return pem.EncodeToMemory(block), rest, nil
}

// certificateKey names a certificate by all that was asked of its signer.
func certificateKey(pod *corev1.Pod, p *corev1.PodCertificateProjection) string {
	text, _ := json.Marshal(p)
	sum := sha256.Sum256(text)
	return string(pod.UID) + "/certificate/" + hex.EncodeToString(sum[:8])
}

// requestCertificate asks a signer, or sees what has become of a request that was made before.
func (t *Credentials) requestCertificate(ctx context.Context, pod *corev1.Pod, p *corev1.PodCertificateProjection, k string) (entry, error) {
	t.mu.Lock()
	a := t.asked[k]
	t.mu.Unlock()
	if a == nil {
		var err error
		if a, err = t.ask(ctx, pod, p); err != nil {
			return entry{}, fmt.Errorf("ask %s for a certificate: %w", p.SignerName, err)
		}
		t.mu.Lock()
		t.asked[k] = a
		t.mu.Unlock()
	}
	if a.refused != nil {
		return entry{}, a.refused
	}
	patience := pollFor
	if _, had := t.entry(k); had {
		patience = pollRenewal
	}
	e, err := t.await(ctx, pod.Namespace, a, patience)
	var r refusal
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err == nil, errors.As(err, &r) && r.code == http.StatusNotFound: // had; or somebody has deleted the request: it is made anew
		delete(t.asked, k)
	case a.refused != nil:
		t.Logger.Warn("a certificate was refused", "pod", pod.Name, "namespace", pod.Namespace, "signer", p.SignerName, "err", err)
	}
	return e, err
}

// ask makes a key and a PodCertificateRequest for it.
func (t *Credentials) ask(ctx context.Context, pod *corev1.Pod, p *corev1.PodCertificateProjection) (*asked, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	key, proof, err := newKey(p.KeyType)
	if err != nil {
		return nil, err
	}
	var account, node struct {
		Metadata struct {
			UID types.UID `json:"uid"`
		} `json:"metadata"`
	}
	if err := t.call(ctx, http.MethodGet, serviceAccount(pod), nil, &account); err != nil {
		return nil, fmt.Errorf("while fetching service account: %w", err)
	}
	if err := t.call(ctx, http.MethodGet, "/api/v1/nodes/"+t.Node, nil, &node); err != nil {
		return nil, fmt.Errorf("while fetching node: %w", err)
	}
	var made certificatesv1.PodCertificateRequest
	err = t.call(ctx, http.MethodPost, requests(pod.Namespace), &certificatesv1.PodCertificateRequest{
		TypeMeta: metav1.TypeMeta{Kind: "PodCertificateRequest", APIVersion: "certificates.k8s.io/v1"},
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, GenerateName: "req-", OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		}},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: p.SignerName, PodName: pod.Name, PodUID: pod.UID, ServiceAccountName: accountName(pod), ServiceAccountUID: account.Metadata.UID,
			NodeName: types.NodeName(t.Node), NodeUID: node.Metadata.UID, MaxExpirationSeconds: p.MaxExpirationSeconds,
			StubPKCS10Request: proof, UnverifiedUserAnnotations: p.UserAnnotations,
		},
	}, &made)
	return &asked{name: made.Name, key: key}, err
}

func requests(namespace string) string {
	return "/apis/certificates.k8s.io/v1/namespaces/" + namespace + "/podcertificaterequests"
}

// await asks for a while whether the signer has answered.
func (t *Credentials) await(ctx context.Context, namespace string, a *asked, patience time.Duration) (entry, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for pause := pollFirst; ; pause = min(2*pause, pollLast) {
		var r certificatesv1.PodCertificateRequest
		if err := t.call(ctx, http.MethodGet, requests(namespace)+"/"+a.name, nil, &r); err != nil {
			if ctx.Err() != nil {
				return entry{}, errNotIssued
			}
			return entry{}, fmt.Errorf("while getting PodCertificateRequest %q: %w", namespace+"/"+a.name, err)
		}
		for _, c := range r.Status.Conditions {
			switch c.Type {
			case certificatesv1.PodCertificateRequestConditionTypeIssued:
				return issued(&r, a.key)
			case certificatesv1.PodCertificateRequestConditionTypeDenied:
				a.refused = fmt.Errorf("PodCertificateRequest was permanently denied: reason=%q message=%q", c.Reason, c.Message)
			case certificatesv1.PodCertificateRequestConditionTypeFailed:
				a.refused = fmt.Errorf("PodCertificateRequest was permanently failed: reason=%q message=%q", c.Reason, c.Message)
			}
		}
		if a.refused != nil {
			return entry{}, a.refused
		}
		select {
		case <-ctx.Done():
			return entry{}, errNotIssued
		case <-time.After(pause):
		}
	}
}

// issued is the credential of a request that was answered: the key, and behind it the certificates without what a signer may have
// written between and into them.
func issued(r *certificatesv1.PodCertificateRequest, key []byte) (entry, error) {
	if r.Status.NotBefore == nil || r.Status.NotAfter == nil || r.Status.BeginRefreshAt == nil {
		return entry{}, fmt.Errorf("PodCertificateRequest %q says not for how long its certificate is valid", r.Namespace+"/"+r.Name)
	}
	bundle := bytes.NewBuffer(bytes.Clone(key))
	for rest := []byte(r.Status.CertificateChain); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		bundle.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.Bytes}))
	}
	return entry{
		Text: bundle.String(), Issued: r.Status.NotBefore.Time, Expires: r.Status.NotAfter.Time,
		Renew: r.Status.BeginRefreshAt.Add(mathrand.N(renewalSpread)),
	}, nil
}

// newKey makes a key of a type that a projection may ask for, PEM of PKCS #8, and an empty certificate request signed with it: the proof
// that who asks has it.
func newKey(kind string) (text, proof []byte, err error) {
	var key crypto.Signer
	switch kind {
	case "RSA3072":
		key, err = rsa.GenerateKey(rand.Reader, 3072)
	case "RSA4096":
		key, err = rsa.GenerateKey(rand.Reader, 4096)
	case "ECDSAP256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSAP384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ECDSAP521":
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ED25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		err = fmt.Errorf("unknown key type %q", kind)
	}
	if err != nil {
		return nil, nil, err
	}
	if proof, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key); err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), proof, nil
}
