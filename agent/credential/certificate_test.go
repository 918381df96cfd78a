package credential

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// signer is an API server that has one request at a time, and answers as answer says.
type signer struct {
	*httptest.Server
	mu      sync.Mutex
	made    int
	request certificatesv1.PodCertificateRequest
	answer  func(*certificatesv1.PodCertificateRequest)
}

func sign(t *testing.T) *signer {
	s := &signer{}
	mux := http.NewServeMux()
	uid := func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"metadata":{"uid":"uid-of-%s"}}`, r.PathValue("name"))
	}
	mux.HandleFunc("GET /api/v1/namespaces/shop/serviceaccounts/{name}", uid)
	mux.HandleFunc("GET /api/v1/nodes/{name}", uid)
	mux.HandleFunc("POST /apis/certificates.k8s.io/v1/namespaces/shop/podcertificaterequests", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.made++
		s.request = certificatesv1.PodCertificateRequest{}
		json.NewDecoder(r.Body).Decode(&s.request)
		s.request.Name = fmt.Sprintf("%s%d", s.request.GenerateName, s.made)
		w.WriteHeader(201)
		json.NewEncoder(w).Encode(s.request)
	})
	mux.HandleFunc("GET /apis/certificates.k8s.io/v1/namespaces/shop/podcertificaterequests/{name}", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if r.PathValue("name") != s.request.Name {
			http.Error(w, `{"message":"not found"}`, 404)
			return
		}
		if s.answer != nil {
			s.answer(&s.request)
		}
		json.NewEncoder(w).Encode(s.request)
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// issue signs the key of a request with itself, for an hour.
func issue(t *testing.T, renew time.Duration) func(*certificatesv1.PodCertificateRequest) {
	return func(r *certificatesv1.PodCertificateRequest) {
		proof, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
		if err == nil {
			err = proof.CheckSignature()
		}
		if err != nil {
			t.Error(err)
			return
		}
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Error(err)
			return
		}
		ca := &x509.Certificate{SerialNumber: big.NewInt(1), PublicKey: public}
		leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{r.Spec.PodName}}
		der, err := x509.CreateCertificate(nil, leaf, ca, proof.PublicKey, private)
		if err != nil {
			t.Error(err)
			return
		}
		at := func(d time.Duration) *metav1.Time { return &metav1.Time{Time: time.Now().Add(d)} }
		r.Status = certificatesv1.PodCertificateRequestStatus{
			CertificateChain: "a word of the signer\n" + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"by": "me"}, Bytes: der})),
			NotBefore:        at(-time.Minute), NotAfter: at(time.Hour), BeginRefreshAt: at(renew),
			Conditions: []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue}},
		}
	}
}

func certificates(t *testing.T, s *signer, m *memory) *Credentials {
	c, err := New(Config{Store: m, Client: s.Client(), URL: s.URL, Node: "pi", Refresh: func(types.UID) {}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCertificateIsAskedForKeptAndRenewed(t *testing.T) {
	s, m := sign(t), &memory{rows: map[string][]byte{}}
	seconds := int32(3600)
	for _, kind := range []string{"ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072"} {
		t.Run(kind, func(t *testing.T) {
			p := &corev1.PodCertificateProjection{SignerName: "example.com/s", KeyType: kind, MaxExpirationSeconds: &seconds, UserAnnotations: map[string]string{"a/b": "c"}}
			s.answer = issue(t, 30*time.Minute)
			c := certificates(t, s, m)
			key, chain, err := c.Certificate(t.Context(), pod, p)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tls.X509KeyPair(chain, key); err != nil {
				t.Errorf("key and certificate do not belong together: %v", err)
			}
			if strings.Contains(string(chain), "word") || strings.Contains(string(chain), "by:") {
				t.Errorf("what the signer wrote around is in the chain: %s", chain)
			}
			r := s.request
			if o := r.OwnerReferences; len(o) != 1 || o[0].UID != "u1" || o[0].Kind != "Pod" {
				t.Errorf("owner %v", o)
			}
			if got := r.Spec; got.SignerName != p.SignerName || got.PodName != "web" || got.PodUID != "u1" || got.ServiceAccountName != "robot" || got.ServiceAccountUID != "uid-of-robot" ||
				got.NodeName != "pi" || got.NodeUID != "uid-of-pi" || *got.MaxExpirationSeconds != seconds || got.UnverifiedUserAnnotations["a/b"] != "c" {
				t.Errorf("asked %+v", got)
			}
			// Another agent of this node has it, also without a link.
			n := s.made
			again, _, err := certificates(t, s, m).Certificate(t.Context(), pod, p)
			if err != nil || string(again) != string(key) || s.made != n {
				t.Errorf("after a restart: %v, asked %d times more", err, s.made-n)
			}
			// When the signer says so it is renewed, and until then the old one stays.
			for k, e := range c.entries {
				e.Renew = time.Now().Add(-time.Minute)
				c.entries[k] = e
			}
			next, _, err := c.Certificate(t.Context(), pod, p)
			if err != nil || string(next) == string(key) {
				t.Errorf("not renewed: %v", err)
			}
			c.Forget("u1")
			if len(m.rows) != 0 {
				t.Errorf("left: %d", len(m.rows))
			}
		})
	}
}

func TestCertificateThatIsNotIssued(t *testing.T) {
	p := &corev1.PodCertificateProjection{SignerName: "example.com/s", KeyType: "ED25519"}
	s := sign(t)
	c := certificates(t, s, &memory{rows: map[string][]byte{}})
	soon := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	for range 2 { // the same request is looked at, not another made
		if _, _, err := c.Certificate(soon(), pod, p); err == nil || err.Error() != "credential bundle is not issued yet" || s.made != 1 {
			t.Errorf("%v, asked %d times", err, s.made)
		}
	}
	s.mu.Lock()
	s.request.Name = "somebody deleted it"
	s.mu.Unlock()
	if _, _, err := c.Certificate(soon(), pod, p); err == nil || !strings.Contains(err.Error(), `PodCertificateRequest "shop/req-1": not found`) {
		t.Errorf("%v", err)
	}
	s.answer = func(r *certificatesv1.PodCertificateRequest) {
		r.Status.Conditions = []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeDenied, Reason: "No", Message: "not you"}}
	}
	for range 2 {
		if _, _, err := c.Certificate(t.Context(), pod, p); err == nil || err.Error() != `PodCertificateRequest was permanently denied: reason="No" message="not you"` || s.made != 2 {
			t.Errorf("%v, asked %d times", err, s.made)
		}
	}
	c.Forget("u1")
	if len(c.asked) != 0 {
		t.Error("a refusal outlives its pod")
	}
}

// A pod that has a certificate is not held up by a signer that takes its time: its worker ends and restarts containers, too.
func TestRenewalWaitsForNoSlowSigner(t *testing.T) {
	p := &corev1.PodCertificateProjection{SignerName: "example.com/s", KeyType: "ED25519"}
	s := sign(t)
	s.answer = issue(t, -time.Hour) // to be renewed from the beginning
	c := certificates(t, s, &memory{rows: map[string][]byte{}})
	old, _, err := c.Certificate(t.Context(), pod, p)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.answer = nil
	s.mu.Unlock()
	began := time.Now()
	for range 2 { // the second look is at the same request
		if key, _, err := c.Certificate(t.Context(), pod, p); err != nil || string(key) != string(old) || s.made != 2 {
			t.Errorf("%v, asked %d times", err, s.made)
		}
	}
	if took := time.Since(began); took > pollFor/2 {
		t.Errorf("the old certificate took %v", took)
	}
	s.mu.Lock()
	s.answer = issue(t, 30*time.Minute)
	s.mu.Unlock()
	if key, _, err := c.Certificate(t.Context(), pod, p); err != nil || string(key) == string(old) || s.made != 2 {
		t.Errorf("not renewed: %v, asked %d times", err, s.made)
	}
}
