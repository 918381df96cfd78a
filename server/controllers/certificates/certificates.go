// Package certificates signs CertificateSigningRequests that somebody has approved and that ask a signer which the cluster itself is,
// and deletes requests for certificates when nobody needs them any more.
//
// Invariant: only a request that the API itself, asked last, has as approved is signed, and only for what its signer is for. Nothing is
// approved here: nodes join by a token, and everybody else is a person's decision.
//
//	requests := certificates.New(certificates.Inputs{...})
//	cleaner := certificates.NewCleaner(certificates.CleanerInputs{...})
package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

// Sign signs a request for some time with the cluster's authority and gives the certificate, PEM.
type Sign func(r *x509.CertificateRequest, use x509.KeyUsage, extended []x509.ExtKeyUsage, life time.Duration) ([]byte, error)

// Inputs is what the controller of CertificateSigningRequests reads and writes with.
type Inputs struct {
	Client kubernetes.Interface
	Caches *cache.Set
	Sign   Sign
	Log    *slog.Logger
}

type controller struct {
	Inputs
	loop *loop.Loop
}

// New makes the controller of CertificateSigningRequests.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in}
	c.loop = loop.New("certificate-controller", in.Log, c.reconcile)
	loop.WatchKeys(c.loop, in.Caches, resource("certificatesigningrequests"), loop.SelfKey)
	return c.loop
}

func resource(name string) schema.GroupResource {
	return schema.GroupResource{Group: certificatesv1.GroupName, Resource: name}
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	requests := c.Client.CertificatesV1().CertificateSigningRequests()
	r, err := requests.Get(ctx, key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read CertificateSigningRequest: %w", err)
	}
	if !has(r, certificatesv1.CertificateApproved) || has(r, certificatesv1.CertificateFailed) || len(r.Status.Certificate) > 0 || check[r.Spec.SignerName] == nil {
		return c.clean(ctx, key, r)
	}
	if err := c.answer(r); err != nil {
		return err
	}
	_, err = requests.UpdateStatus(ctx, r, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write CertificateSigningRequest: %w", err)
	}
	return nil
}

// answer puts the certificate, or why there is none, into the status.
func (c *controller) answer(r *certificatesv1.CertificateSigningRequest) error {
	asked, err := parse(r.Spec.Request)
	if err != nil {
		return loop.Permanent(fmt.Errorf("unable to parse csr %q: %w", r.Name, err))
	}
	if err := check[r.Spec.SignerName](asked, r.Spec.Usages); err != nil {
		now := metav1.Now()
		r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: err.Error(), LastUpdateTime: now, LastTransitionTime: now,
		})
		return nil
	}
	use, extended := usages(r.Spec.Usages)
	if r.Status.Certificate, err = c.Sign(asked, use, extended, life(r.Spec.ExpirationSeconds)); err != nil {
		return fmt.Errorf("error auto signing csr: %w", err)
	}
	return nil
}

func parse(text []byte) (*x509.CertificateRequest, error) {
	b, _ := pem.Decode(text)
	if b == nil || b.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(b.Bytes)
}

// How long certificates last; upstream's numbers.
const (
	longest  = 365 * 24 * time.Hour
	shortest = 10 * time.Minute
)

func life(seconds *int32) time.Duration {
	if seconds == nil {
		return longest
	}
	return max(shortest, min(longest, time.Duration(*seconds)*time.Second))
}

// How long a request stays after its last change; upstream's numbers.
const (
	keepAnswered = time.Hour
	keepPending  = 24 * time.Hour
)

// clean deletes a request whose time is over, or comes back when it will be.
func (c *controller) clean(ctx context.Context, key loop.Key, r *certificatesv1.CertificateSigningRequest) error {
	at, ok := end(r)
	if !ok {
		return nil
	}
	if left := time.Until(at); left > 0 {
		c.loop.After(key, left)
		return nil
	}
	err := c.Client.CertificatesV1().CertificateSigningRequests().Delete(ctx, r.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(r.UID))})
	return deleted(err, "CertificateSigningRequest")
}

// end is when a request is to be deleted, if time ends it.
func end(r *certificatesv1.CertificateSigningRequest) (at time.Time, ok bool) {
	soonest := func(t time.Time) {
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	if len(r.Status.Conditions) == 0 {
		soonest(r.CreationTimestamp.Add(keepPending))
	}
	for _, c := range r.Status.Conditions {
		switch {
		case c.LastUpdateTime.IsZero():
		case c.Type == certificatesv1.CertificateApproved && len(r.Status.Certificate) == 0:
			soonest(c.LastUpdateTime.Add(keepPending))
		case c.Type == certificatesv1.CertificateApproved, c.Type == certificatesv1.CertificateDenied, c.Type == certificatesv1.CertificateFailed:
			soonest(c.LastUpdateTime.Add(keepAnswered))
		}
	}
	if b, _ := pem.Decode(r.Status.Certificate); b != nil {
		if cert, err := x509.ParseCertificate(b.Bytes); err == nil {
			soonest(cert.NotAfter)
		}
	}
	return at, ok
}

func has(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) bool {
	for _, c := range r.Status.Conditions {
		if c.Type == t && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// deleted takes it for done when somebody else was faster.
func deleted(err error, kind string) error {
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return fmt.Errorf("delete old %s: %w", kind, err)
}
