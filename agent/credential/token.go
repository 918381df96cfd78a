package credential

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// defaultSeconds is the life of a token for which none is asked.
const defaultSeconds = 3600

func tokenKey(pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) string {
	return strings.Join([]string{string(pod.UID), pod.Spec.ServiceAccountName, p.Audience, fmt.Sprint(lifetime(p))}, "/")
}

func lifetime(p *corev1.ServiceAccountTokenProjection) int64 {
	if p.ExpirationSeconds != nil {
		return *p.ExpirationSeconds
	}
	return defaultSeconds
}

// Token returns the pod's token for a projection.
func (t *Credentials) Token(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (string, error) {
	return t.get(ctx, pod, tokenKey(pod, p), func(ctx context.Context) (entry, error) {
		e, err := t.requestToken(ctx, pod, p)
		if err != nil {
			err = fmt.Errorf("failed to fetch token: %w", err)
		}
		return e, err
	})
}

// The parts of an authentication/v1 TokenRequest that are spoken of.
type tokenRequest struct {
	Kind       string       `json:"kind"`
	APIVersion string       `json:"apiVersion"`
	Spec       tokenSpec    `json:"spec"`
	Status     *tokenStatus `json:"status,omitempty"`
}

type tokenSpec struct {
	Audiences         []string `json:"audiences,omitempty"`
	ExpirationSeconds int64    `json:"expirationSeconds"`
	BoundObjectRef    boundRef `json:"boundObjectRef"`
}

type boundRef struct {
	Kind       string    `json:"kind"`
	APIVersion string    `json:"apiVersion"`
	Name       string    `json:"name"`
	UID        types.UID `json:"uid"`
}

type tokenStatus struct {
	Token               string    `json:"token"`
	ExpirationTimestamp time.Time `json:"expirationTimestamp"`
}

func (t *Credentials) requestToken(ctx context.Context, pod *corev1.Pod, p *corev1.ServiceAccountTokenProjection) (entry, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req := tokenRequest{Kind: "TokenRequest", APIVersion: "authentication.k8s.io/v1", Spec: tokenSpec{
		ExpirationSeconds: lifetime(p), BoundObjectRef: boundRef{"Pod", "v1", pod.Name, pod.UID},
	}}
	if p.Audience != "" {
		req.Spec.Audiences = []string{p.Audience}
	}
	issued := time.Now()
	var got tokenRequest
	if err := t.call(ctx, http.MethodPost, serviceAccount(pod)+"/token", req, &got); err != nil {
		return entry{}, err
	}
	if got.Status == nil || got.Status.Token == "" {
		return entry{}, errors.New("the server's answer holds no token")
	}
	return entry{Text: got.Status.Token, Issued: issued, Expires: got.Status.ExpirationTimestamp}, nil
}

// accountName is that of the pod's service account.
func accountName(pod *corev1.Pod) string {
	if pod.Spec.ServiceAccountName == "" {
		return "default"
	}
	return pod.Spec.ServiceAccountName
}

// serviceAccount is the path of the pod's service account.
func serviceAccount(pod *corev1.Pod) string {
	return fmt.Sprintf("/api/v1/namespaces/%s/serviceaccounts/%s", pod.Namespace, accountName(pod))
}
