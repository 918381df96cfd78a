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
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// How a certificate is had. Signers are pods or people: one may take long. Who asks for a certificate waits a moment at most, because
// it is the worker of a pod, which also ends the pod; the rest is done beside it, and the worker is told.
const (
	moment              = 500 * time.Millisecond // so that a signer that is quick leaves no event that it was not
	pollFirst, pollLast = 100 * time.Millisecond, 30 * time.Second
	renewalSpread       = 5 * time.Minute // by which pods made at once ask at different times
)

// errNotIssued is upstream's word for it.
var errNotIssued = errors.New("credential bundle is not issued yet")

// pursuit is a certificate that is asked for. It is not kept over a restart of the agent, which asks anew.
type pursuit struct {
	pod        *corev1.Pod
	projection *corev1.PodCertificateProjection
	done       chan struct{} // closed when there is nothing more to wait for

	name string // of the PodCertificateRequest; empty: it is not made yet. Of the pursuit's goroutine, as key is
	key  []byte // PEM

	// The credentials' lock guards what follows.
	stop    context.CancelFunc // nil: it has not begun
	awaited bool               // somebody was turned away, and is to be told
	err     error              // why it is not had yet
	refused bool               // for good, by err: nothing more is asked for the pod
}

// Certificate returns the private key and the chain of certificates, both PEM, of a pod for a projection.
func (t *Credentials) Certificate(ctx context.Context, pod *corev1.Pod, p *corev1.PodCertificateProjection) (key, chain []byte, err error) {
	bundle, err := t.bundle(ctx, pod, p, certificateKey(pod, p))
	if err != nil {
		return nil, nil, err
	}
	block, rest := pem.Decode([]byte(bundle))
	return pem.EncodeToMemory(block), rest, nil
}

// bundle is what is had of a certificate: while a new one is asked for, the old one.
func (t *Credentials) bundle(ctx context.Context, pod *corev1.Pod, projection *corev1.PodCertificateProjection, k string) (string, error) {
	t.mu.Lock()
	if e, have := t.entries[k]; have && time.Now().Before(e.renewAt()) {
		t.mu.Unlock()
		return e.Text, nil
	}
	p, known := t.pursued[k]
	if !known {
		p = &pursuit{pod: pod, projection: projection, done: make(chan struct{})}
		t.pursued[k] = p
	}
	t.mu.Unlock()
	if !known {
		select {
		case t.begin <- struct{}{}:
		default:
		}
		select {
		case <-p.done:
		case <-time.After(moment):
		case <-ctx.Done():
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e, have := t.entries[k]
	if have && time.Now().Before(e.renewAt()) {
		return e.Text, nil
	}
	p.awaited = true
	switch {
	case have: // without a link the server cannot refuse it either
		return e.Text, nil
	case p.err != nil:
		return "", p.err
	}
	return "", errNotIssued
}

// pursueAll begins what is asked for and has not begun.
func (t *Credentials) pursueAll(ctx context.Context, wait *sync.WaitGroup) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, p := range t.pursued {
		if p.stop == nil {
			one, stop := context.WithCancel(ctx)
			p.stop = stop
			wait.Go(func() { t.pursue(one, k, p) })
		}
	}
}

// pursue asks a signer, and then whether it has answered, until it has.
func (t *Credentials) pursue(ctx context.Context, k string, p *pursuit) {
	defer p.stop()
	for pause := pollFirst; ; pause = min(2*pause, pollLast) {
		e, err := t.look(ctx, p)
		if ctx.Err() != nil {
			return
		}
		var no refused
		t.mu.Lock()
		p.err, p.refused = err, errors.As(err, &no)
		over, tell := p.refused || e.Text != "", p.awaited
		if e.Text != "" && t.pursued[k] == p {
			delete(t.pursued, k)
			t.keep(k, e)
		}
		if over {
			close(p.done)
		}
		t.mu.Unlock()
		if p.refused {
			t.Logger.Warn("a certificate was refused", "pod", p.pod.Name, "namespace", p.pod.Namespace, "signer", p.projection.SignerName, "err", err)
		}
		if over {
			if tell {
				t.Refresh(p.pod.UID)
			}
			t.Again()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// certificateKey names a certificate by all that was asked of its signer.
func certificateKey(pod *corev1.Pod, p *corev1.PodCertificateProjection) string {
	text, _ := json.Marshal(p)
	sum := sha256.Sum256(text)
	return string(pod.UID) + "/certificate/" + hex.EncodeToString(sum[:8])
}

// refused is the answer of a signer that will give no other.
type refused struct{ error }

// look makes the request, or sees what has become of it. Without a credential and without an error, nobody has answered.
func (t *Credentials) look(ctx context.Context, p *pursuit) (entry, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if p.name == "" {
		var err error
		if p.name, p.key, err = t.ask(ctx, p.pod, p.projection); err != nil {
			return entry{}, fmt.Errorf("ask %s for a certificate: %w", p.projection.SignerName, err)
		}
	}
	var r certificatesv1.PodCertificateRequest
	if err := t.call(ctx, http.MethodGet, requests(p.pod.Namespace)+"/"+p.name, nil, &r); err != nil {
		err = fmt.Errorf("while getting PodCertificateRequest %q: %w", p.pod.Namespace+"/"+p.name, err)
		var no refusal
		if errors.As(err, &no) && no.code == http.StatusNotFound { // somebody has deleted it: it is made anew
			p.name = ""
		}
		return entry{}, err
	}
	for _, c := range r.Status.Conditions {
		switch c.Type {
		case certificatesv1.PodCertificateRequestConditionTypeIssued:
			return issued(&r, p.key)
		case certificatesv1.PodCertificateRequestConditionTypeDenied:
			return entry{}, refused{fmt.Errorf("PodCertificateRequest was permanently denied: reason=%q message=%q", c.Reason, c.Message)}
		case certificatesv1.PodCertificateRequestConditionTypeFailed:
			return entry{}, refused{fmt.Errorf("PodCertificateRequest was permanently failed: reason=%q message=%q", c.Reason, c.Message)}
		}
	}
	return entry{}, nil
}

// ask makes a key and a PodCertificateRequest for it.
func (t *Credentials) ask(ctx context.Context, pod *corev1.Pod, p *corev1.PodCertificateProjection) (name string, key []byte, err error) {
	key, proof, err := newKey(p.KeyType)
	if err != nil {
		return "", nil, err
	}
	var account, node struct {
		Metadata struct {
			UID types.UID `json:"uid"`
		} `json:"metadata"`
	}
	if err := t.call(ctx, http.MethodGet, serviceAccount(pod), nil, &account); err != nil {
		return "", nil, fmt.Errorf("while fetching service account: %w", err)
	}
	if err := t.call(ctx, http.MethodGet, "/api/v1/nodes/"+t.Node, nil, &node); err != nil {
		return "", nil, fmt.Errorf("while fetching node: %w", err)
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
	return made.Name, key, err
}

func requests(namespace string) string {
	return "/apis/certificates.k8s.io/v1/namespaces/" + namespace + "/podcertificaterequests"
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
