package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	groupadder "k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	x509request "k8s.io/apiserver/pkg/authentication/request/x509"
	tokencache "k8s.io/apiserver/pkg/authentication/token/cache"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/kubernetes/pkg/serviceaccount"
	"k8s.io/kubernetes/plugin/pkg/auth/authenticator/token/bootstrap"

	"bramble.dev/link"
	"bramble.dev/server/api/openid"
	"bramble.dev/server/auth"
)

// Issuer names the cluster in service-account tokens. The name resolves inside the cluster, where issuer discovery is asked for.
const Issuer = "https://kubernetes.default.svc.cluster.local"

// knownFor is how long a credential that was found good is not looked at again, as upstream does with tokens.
const knownFor = 10 * time.Second

var audiences = authenticator.Audiences{Issuer}

// newAuthenticator knows who sends a request: client certificates of our authority, tokens of service accounts, of who is about to
// join or of issuers outside, or nobody in particular.
func newAuthenticator(pki *auth.PKI, keys serviceaccount.PublicKeysGetter, f informers.SharedInformerFactory, client kubernetes.Interface, issuers *openid.Issuers, nobody authenticator.Request) (authenticator.Request, error) {
	getter := tokenObjects{f}
	legacy, err := serviceaccount.NewLegacyValidator(true, getter, client.CoreV1())
	if err != nil {
		return nil, fmt.Errorf("authentication: %w", err)
	}
	all := []authenticator.Token{
		serviceaccount.JWTTokenAuthenticator([]string{serviceaccount.LegacyIssuer}, keys, audiences, legacy),
		serviceaccount.JWTTokenAuthenticator([]string{Issuer}, keys, audiences, serviceaccount.NewValidator(getter)),
		bootstrap.NewTokenAuthenticator(f.Core().V1().Secrets().Lister().Secrets(metav1.NamespaceSystem)),
	}
	if issuers != nil {
		all = append(all, issuers)
	}
	tokens := tokencache.New(tokenunion.New(all...), true, knownFor, 0)
	options := x509.VerifyOptions{Roots: pki.CAPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	known := groupadder.NewAuthenticatedGroupAdder(union.New(
		oncePerConnection{ownKey{
			x509request.NewDynamic(func() (x509.VerifyOptions, bool) { return options, true }, x509request.CommonNameUserConversion),
			f.Core().V1().Nodes().Lister(),
		}},
		bearertoken.New(tokens), websocket.NewProtocolAuthenticator(tokens),
	))
	// A bad credential is an error and not an anonymous request.
	if nobody != nil {
		return union.NewFailOnError(known, nobody), nil
	}
	return known, nil
}

// SignToken makes a token of an account that is good for as long as the Secret which holds it, and the account, are there.
func (s *Server) SignToken(ctx context.Context, account *corev1.ServiceAccount, secret *corev1.Secret) (string, error) {
	claims, private := serviceaccount.LegacyClaims(*account, *secret)
	return s.wiring.lasting.GenerateToken(ctx, claims, private)
}

// ownKey refuses the certificate of a node whose Node names another key. The board was replaced, and whoever has its card must
// not read what the node's pods need for as long as the certificate lives.
type ownKey struct {
	authenticator.Request
	nodes corelisters.NodeLister
}

func (a ownKey) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	response, ok, err := a.Request.AuthenticateRequest(r)
	if !ok || err != nil {
		return response, ok, err
	}
	name, isNode := strings.CutPrefix(response.User.GetName(), link.NodePrefix)
	if !isNode {
		return response, ok, nil
	}
	// A Node that was deleted is made again at the next session; until then it has no pods to read for.
	n, err := a.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return response, ok, nil
	}
	if err != nil {
		return nil, false, err
	}
	if key := n.Annotations[link.KeyAnnotation]; key != "" && key != link.Fingerprint(r.TLS.PeerCertificates[0].RawSubjectPublicKeyInfo) {
		return nil, false, fmt.Errorf("node %q is another board now", name)
	}
	return response, ok, nil
}

// tokenObjects finds what a token is bound to.
type tokenObjects struct {
	f informers.SharedInformerFactory
}

func (t tokenObjects) GetServiceAccount(_ context.Context, ns, name string) (*corev1.ServiceAccount, error) {
	return t.f.Core().V1().ServiceAccounts().Lister().ServiceAccounts(ns).Get(name)
}

func (t tokenObjects) GetPod(_ context.Context, ns, name string) (*corev1.Pod, error) {
	return t.f.Core().V1().Pods().Lister().Pods(ns).Get(name)
}

func (t tokenObjects) GetSecret(_ context.Context, ns, name string) (*corev1.Secret, error) {
	return t.f.Core().V1().Secrets().Lister().Secrets(ns).Get(name)
}

func (t tokenObjects) GetNode(_ context.Context, name string) (*corev1.Node, error) {
	return t.f.Core().V1().Nodes().Lister().Get(name)
}

func (t tokenObjects) GetValidatingWebhookConfiguration(_ context.Context, name string) (*admissionregistrationv1.ValidatingWebhookConfiguration, error) {
	return t.f.Admissionregistration().V1().ValidatingWebhookConfigurations().Lister().Get(name)
}

func (t tokenObjects) GetMutatingWebhookConfiguration(_ context.Context, name string) (*admissionregistrationv1.MutatingWebhookConfiguration, error) {
	return t.f.Admissionregistration().V1().MutatingWebhookConfigurations().Lister().Get(name)
}

// insecure is for requests to pods that a user proxies to over https: upstream verifies no certificate there either.
func insecure() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }
