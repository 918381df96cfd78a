package api

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"testing"

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
