package api

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"slices"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"bramble.dev/link"
)

// TestReplacedBoard: the certificate of a board that another one has replaced is no longer that of the node.
func TestReplacedBoard(t *testing.T) {
	former, present := []byte("the former board's key"), []byte("the present one's")
	nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
	for name, annotations := range map[string]map[string]string{"pi1": {link.KeyAnnotation: link.Fingerprint(present)}, "other": nil} {
		if err := nodes.Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name, user string
		key        []byte
		want       bool
	}{
		{"the present board", "system:node:pi1", present, true},
		{"the former board", "system:node:pi1", former, false},
		{"a node that no board has joined", "system:node:other", former, true},
		{"a node that is not there", "system:node:gone", former, true},
		{"a user", "pi1", former, true},
	} {
		a := ownKey{authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) {
			return &authenticator.Response{User: &user.DefaultInfo{Name: tt.user}}, true, nil
		}), corelisters.NewNodeLister(nodes)}
		r := &http.Request{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{RawSubjectPublicKeyInfo: tt.key}}}}
		if response, ok, err := a.AuthenticateRequest(r); ok != tt.want || (err == nil) != tt.want || (response != nil) != tt.want {
			t.Errorf("%s: %v %v %v", tt.name, response, ok, err)
		}
	}
}

// TestBootstrapTokens: what kubeadm calls a bootstrap token is somebody to the API, for as long as it is good.
func TestBootstrapTokens(t *testing.T) {
	c, _ := shared(t)
	create := func(id string, change func(*corev1.Secret)) string {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id}, Type: corev1.SecretTypeBootstrapToken, StringData: map[string]string{
			"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true", "auth-extra-groups": "system:bootstrappers:garden",
			"expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
		}}
		change(s)
		must(c.client.CoreV1().Secrets(metav1.NamespaceSystem).Create(t.Context(), s, metav1.CreateOptions{}))(t)
		return id + ".0123456789abcdef"
	}
	good := clientOf(t, c.with(create("good00", func(*corev1.Secret) {})))
	me := must(good.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}))(t).Status.UserInfo
	if me.Username != "system:bootstrap:good00" || !slices.Equal(me.Groups, []string{"system:bootstrappers", "system:bootstrappers:garden", "system:authenticated"}) {
		t.Errorf("the token is %+v", me)
	}
	for id, change := range map[string]func(*corev1.Secret){
		"past00": func(s *corev1.Secret) { s.StringData["expiration"] = "2020-01-01T00:00:00Z" },
		"join00": func(s *corev1.Secret) { delete(s.StringData, "usage-bootstrap-authentication") }, // as bramble token create makes them
		"other0": func(s *corev1.Secret) { s.StringData["token-secret"] = "another0another0" },
		"opaque": func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque },
		"groups": func(s *corev1.Secret) { s.StringData["auth-extra-groups"] = "system:masters" },
	} {
		if a := ask(t, c.with(create(id, change)), "GET", "/version", ""); a.code != 401 {
			t.Errorf("%s: %d", id, a.code)
		}
	}
}

// TestTokenInASecret: a token that lies in a Secret is its account's for as long as both are there.
func TestTokenInASecret(t *testing.T) {
	c, namespace := shared(t)
	account := must(c.client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{}))(t)
	issue := func(name string) string {
		secret := must(c.client.CoreV1().Secrets(namespace).Create(t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: "robot"}}, Type: corev1.SecretTypeServiceAccountToken,
		}, metav1.CreateOptions{}))(t)
		token := must(c.SignToken(t.Context(), account, secret))(t)
		secret.Data = map[string][]byte{corev1.ServiceAccountTokenKey: []byte(token)}
		must(c.client.CoreV1().Secrets(namespace).Update(t.Context(), secret, metav1.UpdateOptions{}))(t)
		return token
	}
	good := clientOf(t, c.with(issue("robot-token")))
	me := must(good.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}))(t).Status.UserInfo
	if me.Username != "system:serviceaccount:"+namespace+":robot" || me.UID != string(account.UID) {
		t.Errorf("the token is %+v", me)
	}
	gone := issue("robot-gone")
	if err := c.client.CoreV1().Secrets(namespace).Delete(t.Context(), "robot-gone", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if a := ask(t, c.with(gone), "GET", "/version", ""); a.code != 401 {
		t.Errorf("its Secret is gone: %d", a.code)
	}
}
