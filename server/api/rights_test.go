package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"bramble.dev/server/auth"
)

func clientOf(t *testing.T, c *rest.Config) kubernetes.Interface {
	t.Helper()
	return must(kubernetes.NewForConfig(c))(t)
}

func TestNobodyInParticular(t *testing.T) {
	c, _ := shared(t)
	nobody := c.with("")
	for path, want := range map[string]int{
		"/healthz": 200, "/livez": 200, "/readyz": 200, "/version": 200,
		"/api/v1/namespaces": 403, "/metrics": 403, "/apis": 403, "/openapi/v2": 403, "/.well-known/openid-configuration": 403, "/no/such": 403,
	} {
		if a := ask(t, nobody, "GET", path, ""); a.code != want {
			t.Errorf("%s: %d, want %d", path, a.code, want)
		}
	}
	a := ask(t, nobody, "GET", "/api/v1/secrets", "")
	if !strings.Contains(a.body, `secrets is forbidden: User \"system:anonymous\" cannot list resource \"secrets\" in API group \"\" at the cluster scope`) {
		t.Errorf("refusal: %s", a.body)
	}
	if a.header.Get("Audit-Id") == "" || a.header.Get("Cache-Control") != "no-cache, private" {
		t.Errorf("headers: %v", a.header)
	}
	for _, token := range []string{"nonsense", "a.b.c", "eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2t1YmVybmV0ZXMuZGVmYXVsdC5zdmMuY2x1c3Rlci5sb2NhbCJ9."} {
		if a := ask(t, c.with(token), "GET", "/version", ""); a.code != 401 {
			t.Errorf("token %q: %d", token, a.code)
		}
	}
	// A certificate of another authority is no identity.
	other := must(auth.OpenPKI(t.TempDir(), auth.PKIOptions{}))(t)
	cert, key, err := other.ClientCertificate("admin", "system:masters")
	if err != nil {
		t.Fatal(err)
	}
	foreign := c.with("")
	foreign.CertData, foreign.KeyData = cert, key
	if a := ask(t, foreign, "GET", "/api/v1/namespaces", ""); a.code != 401 {
		t.Errorf("a foreign certificate: %d %s", a.code, a.body)
	}
}

func TestServiceAccountTokens(t *testing.T) {
	t.Parallel() // it waits for the cache of tokens that were good
	c, ns := shared(t)
	p := must(c.client.CoreV1().Pods(ns).Create(t.Context(), pod("holder"), metav1.CreateOptions{}))(t)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID}}}
	token := must(c.client.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "default", request, metav1.CreateOptions{}))(t).Status.Token
	account := clientOf(t, c.with(token))
	me := must(account.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}))(t).Status.UserInfo
	if me.Username != "system:serviceaccount:"+ns+":default" || me.Extra["authentication.kubernetes.io/pod-name"][0] != "holder" {
		t.Errorf("the token is %+v", me)
	}
	review := must(c.client.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{}))(t)
	if !review.Status.Authenticated || review.Status.User.Username != me.Username {
		t.Errorf("review %+v", review.Status)
	}

	if _, err := account.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("without a role: %v", err)
	}
	role := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "r"}, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: "r"}, Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "default", Namespace: ns}}}
	must(c.client.RbacV1().Roles(ns).Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list"}}}}, metav1.CreateOptions{}))(t)
	must(c.client.RbacV1().RoleBindings(ns).Create(t.Context(), role, metav1.CreateOptions{}))(t)
	eventually(t, "the role counts", func() bool {
		_, err := account.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
		return err == nil
	})
	if _, err := account.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("x"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("beyond the role: %v", err)
	}
	access := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: ns, Verb: "list", Resource: "configmaps"}}}
	if a := must(account.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), access, metav1.CreateOptions{}))(t); !a.Status.Allowed {
		t.Errorf("access review %+v", a.Status)
	}
	// Nobody gives away rights that he does not have.
	if _, err := account.RbacV1().Roles(ns).Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}}}}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("escalation: %v", err)
	}

	zero := int64(0)
	if err := c.client.CoreV1().Pods(ns).Delete(t.Context(), "holder", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token ends with its pod", func() bool { return ask(t, c.with(token), "GET", "/version", "").code == 401 })
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so: %s", what)
		}
	}
}

func TestIssuerDiscovery(t *testing.T) {
	c, _ := shared(t)
	a := ask(t, c.config, "GET", "/.well-known/openid-configuration", "")
	if a.code != 200 || !strings.Contains(a.body, `"issuer":"https://kubernetes.default.svc.cluster.local"`) || !strings.Contains(a.body, `"jwks_uri":"https://kubernetes.default.svc.cluster.local/openid/v1/jwks"`) {
		t.Errorf("%d %s", a.code, a.body)
	}
	if a := ask(t, c.config, "GET", "/openid/v1/jwks", ""); a.code != 200 || a.header.Get("Content-Type") != "application/jwk-set+json" || !strings.Contains(a.body, `"alg":"ES256"`) {
		t.Errorf("%d %s", a.code, a.body)
	}
}

// A node reads what its own pods need, asks for their tokens, and nothing else.
func TestNodeRights(t *testing.T) {
	c, ns := shared(t)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: ns + "-node"}}
	must(c.client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}))(t)
	for _, s := range []string{"mine", "theirs"} {
		must(c.client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: s}}, metav1.CreateOptions{}))(t)
	}
	p := pod("p")
	p.Spec.NodeName = node.Name
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "mine"}}}, {Name: "tls", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{PodCertificate: &corev1.PodCertificateProjection{SignerName: "example.com/s", KeyType: "ECDSAP256", CredentialBundlePath: "tls.pem"}},
	}}}}}
	p = must(c.client.CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{}))(t)
	config := must(c.as(auth.NodeUser(node.Name), auth.NodesGroup))(t)
	me := clientOf(t, config)
	eventually(t, "the node reads its pod's secret", func() bool {
		_, err := me.CoreV1().Secrets(ns).Get(t.Context(), "mine", metav1.GetOptions{})
		return err == nil
	})
	if _, err := me.CoreV1().Secrets(ns).Get(t.Context(), "theirs", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("another secret: %v", err)
	}
	if _, err := me.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("all secrets: %v", err)
	}
	ref := &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID}
	must(me.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: ref}}, metav1.CreateOptions{}))(t)
	if _, err := me.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a token for no pod: %v", err)
	}
	must(c.client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: ns + "-other"}}, metav1.CreateOptions{}))(t)
	if _, err := me.CoreV1().Nodes().Patch(t.Context(), ns+"-other", "application/merge-patch+json", []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("another node: %v", err)
	}
	mine := must(me.CoreV1().Nodes().Get(t.Context(), node.Name, metav1.GetOptions{}))(t)
	mine.Labels = map[string]string{"node-role.kubernetes.io/control-plane": ""}
	if _, err := me.CoreV1().Nodes().Update(t.Context(), mine, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a label that is not the node's to set: %v", err)
	}

	// A certificate for its pod. The request is not written in the version that is asked for.
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	account := must(me.CoreV1().ServiceAccounts(ns).Get(t.Context(), "default", metav1.GetOptions{}))(t)
	asked := must(me.CertificatesV1().PodCertificateRequests(ns).Create(t.Context(), &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "req-"},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: "example.com/s", PodName: p.Name, PodUID: p.UID, ServiceAccountName: account.Name, ServiceAccountUID: account.UID,
			NodeName: types.NodeName(node.Name), NodeUID: mine.UID, StubPKCS10Request: must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))(t),
		},
	}, metav1.CreateOptions{}))(t)
	eventually(t, "the node reads its request", func() bool {
		_, err := me.CertificatesV1().PodCertificateRequests(ns).Get(t.Context(), asked.Name, metav1.GetOptions{})
		return err == nil
	})
	other := clientOf(t, must(c.as(auth.NodeUser(ns+"-other"), auth.NodesGroup))(t))
	if _, err := other.CertificatesV1().PodCertificateRequests(ns).Get(t.Context(), asked.Name, metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("another node reads the request: %v", err)
	}
}

func TestImpersonation(t *testing.T) {
	c, ns := shared(t)
	config := rest.CopyConfig(c.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "jane", Groups: []string{"system:authenticated"}}
	jane := clientOf(t, config)
	if _, err := jane.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `User "jane"`) {
		t.Errorf("got %v", err)
	}
	other := must(c.as("joe"))(t)
	other.Impersonate = config.Impersonate
	if _, err := clientOf(t, other).CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "cannot impersonate") {
		t.Errorf("joe as jane: %v", err)
	}
}

// A bundle that stands for a signer is believed by pods: to make one takes the right to attest for that signer, as upstream has it.
func TestTrustBundlesOfSignersAreAttested(t *testing.T) {
	c, _ := shared(t)
	rules := []rbacv1.PolicyRule{{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"clustertrustbundles"}, Verbs: []string{"create"}}}
	role := must(c.client.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "bundles"}, Rules: rules}, metav1.CreateOptions{}))(t)
	must(c.client.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "bundles"}, Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "bundler"}},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "bundles"},
	}, metav1.CreateOptions{}))(t)
	bundler := clientOf(t, must(c.as("bundler"))(t)).CertificatesV1().ClusterTrustBundles()
	bundle := func(name, signer string) *certificatesv1.ClusterTrustBundle {
		return &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: string(c.pki.CACertPEM())}}
	}
	eventually(t, "the role counts", func() bool {
		_, err := bundler.Create(t.Context(), bundle("of-nobody", ""), metav1.CreateOptions{})
		return err == nil
	})
	signed := bundle("example.com:signer:v1", "example.com/signer")
	_, err := bundler.Create(t.Context(), signed, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `user not permitted to attest for signerName "example.com/signer"`) {
		t.Errorf("without the right to attest: %v", err)
	}
	role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, ResourceNames: []string{"example.com/*"}, Verbs: []string{"attest"}})
	must(c.client.RbacV1().ClusterRoles().Update(t.Context(), role, metav1.UpdateOptions{}))(t)
	eventually(t, "who may attest makes the bundle", func() bool {
		_, err := bundler.Create(t.Context(), signed, metav1.CreateOptions{})
		return err == nil
	})
}
