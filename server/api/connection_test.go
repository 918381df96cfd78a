package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// A certificate is verified once a connection, again after a while and after its end, and never on the word of another connection.
func TestOncePerConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, refuse := 0, false
		a := oncePerConnection{authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
			asked++
			if refuse {
				return nil, false, errors.New("expired")
			}
			return &authenticator.Response{User: &user.DefaultInfo{Name: "jane"}}, true, nil
		})}
		request := func(ctx context.Context, certificates ...*x509.Certificate) *http.Request {
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "/api", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.TLS = &tls.ConnectionState{PeerCertificates: certificates}
			return r
		}
		certificate := &x509.Certificate{NotAfter: time.Now().Add(knownFor + 3*time.Second)}
		first, second := withConnection(t.Context(), nil), withConnection(t.Context(), nil)
		for _, step := range []struct {
			name    string
			after   time.Duration
			request *http.Request
			refuse  bool
			asks    int
			known   bool
		}{
			{"first request", 0, request(first, certificate), false, 1, true},
			{"second request", time.Second, request(first, certificate), true, 0, true},
			{"another connection", 0, request(second, certificate), true, 1, false},
			{"a refusal is not remembered", 0, request(second, certificate), false, 1, true},
			{"after a while", knownFor, request(first, certificate), false, 1, true},
			{"the certificate has ended", 3 * time.Second, request(first, certificate), true, 1, false},
			{"no certificate", 0, request(first), false, 1, true},
			{"no certificate again", 0, request(first), false, 1, true},
			{"no connection", 0, request(t.Context(), certificate), false, 1, true},
			{"no connection again", 0, request(t.Context(), certificate), false, 1, true},
		} {
			time.Sleep(step.after)
			asked, refuse = 0, step.refuse
			response, known, err := a.AuthenticateRequest(step.request)
			if asked != step.asks || known != step.known || known != (err == nil) || known && response.User.GetName() != "jane" {
				t.Errorf("%s: asked %d times, known %v, err %v", step.name, asked, known, err)
			}
		}
	})
}
