package credential

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
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

// certificates are those of an agent that runs; it is told on the channel which pods to look at again.
func certificates(t *testing.T, s *signer, m *memory) (*Credentials, <-chan types.UID) {
	told := make(chan types.UID, 100)
	c, err := New(Config{Store: m, Client: s.Client(), URL: s.URL, Node: "pi", Refresh: func(uid types.UID) { told <- uid }, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); c.Run(ctx) }()
	t.Cleanup(func() { stop(); <-ended })
	return c, told
}

func (s *signer) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.made
}

func (s *signer) answers(f func(*certificatesv1.PodCertificateRequest)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

// told waits until a pod is to be looked at again.
func toldOf(t *testing.T, told <-chan types.UID) {
	t.Helper()
	select {
	case uid := <-told:
		if uid != "u1" {
			t.Errorf("told of %s", uid)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("nobody was told")
	}
}

func TestCertificateIsAskedForKeptAndRenewed(t *testing.T) {
	s, m := sign(t), &memory{rows: map[string][]byte{}}
	seconds := int32(3600)
	for _, kind := range []string{"ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072"} {
		t.Run(kind, func(t *testing.T) {
			p := &corev1.PodCertificateProjection{SignerName: "example.com/s", KeyType: kind, MaxExpirationSeconds: &seconds, UserAnnotations: map[string]string{"a/b": "c"}}
			s.answers(issue(t, 30*time.Minute))
			c, told := certificates(t, s, m)
			key, chain, err := c.Certificate(t.Context(), pod, p)
			if errors.Is(err, errNotIssued) { // large keys take their time
				toldOf(t, told)
				key, chain, err = c.Certificate(t.Context(), pod, p)
			}
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
			n := s.asked()
			later, _ := certificates(t, s, m)
			again, _, err := later.Certificate(t.Context(), pod, p)
			if err != nil || string(again) != string(key) || s.asked() != n {
				t.Errorf("after a restart: %v, asked %d times more", err, s.asked()-n)
			}
			// When the signer says so it is renewed, and until then the old one stays.
			c.mu.Lock()
			for k, e := range c.entries {
				e.Renew = time.Now().Add(-time.Minute)
				c.entries[k] = e
			}
			c.mu.Unlock()
			next, _, err := c.Certificate(t.Context(), pod, p)
			if err == nil && string(next) == string(key) { // it was not there within a moment
				toldOf(t, told)
				next, _, err = c.Certificate(t.Context(), pod, p)
			}
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

// A signer that takes its time holds nobody up: the worker of the pod, which ends the pod too, is told when the certificate is there.
func TestCertificateThatIsNotIssued(t *testing.T) {
	p := &corev1.PodCertificateProjection{SignerName: "example.com/s", KeyType: "ED25519"}
	s := sign(t)
	c, told := certificates(t, s, &memory{rows: map[string][]byte{}})
	began := time.Now()
	for range 3 { // the same request is looked at, not another made
		if _, _, err := c.Certificate(t.Context(), pod, p); err == nil || err.Error() != "credential bundle is not issued yet" || s.asked() != 1 {
			t.Errorf("%v, asked %d times", err, s.asked())
		}
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("that it is not there took %v to say", took)
	}
	s.answers(issue(t, 30*time.Minute))
	toldOf(t, told)
	if _, _, err := c.Certificate(t.Context(), pod, p); err != nil || s.asked() != 1 {
		t.Errorf("%v, asked %d times", err, s.asked())
	}
}

func TestCertificateThatIsRefused(t *testing.T) {
	p := &corev1.PodCertificateProjection{SignerName: "example.com/s", KeyType: "ED25519"}
	s := sign(t)
	c, told := certificates(t, s, &memory{rows: map[string][]byte{}})
	if _, _, err := c.Certificate(t.Context(), pod, p); err == nil || err.Error() != "credential bundle is not issued yet" {
		t.Errorf("%v", err)
	}
	s.mu.Lock()
	s.request.Name = "somebody deleted it"
	s.answer = func(r *certificatesv1.PodCertificateRequest) {
		r.Status.Conditions = []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeDenied, Reason: "No", Message: "not you"}}
	}
	s.mu.Unlock()
	toldOf(t, told) // another was made in the place of the one that was deleted, and that is denied
	for range 2 {
		if _, _, err := c.Certificate(t.Context(), pod, p); err == nil || err.Error() != `PodCertificateRequest was permanently denied: reason="No" message="not you"` || s.asked() != 2 {
			t.Errorf("%v, asked %d times", err, s.asked())
		}
	}
	c.Forget("u1")
	if len(c.pursued) != 0 {
		t.Error("a refusal outlives its pod")
	}
}

// What is pursued for a pod ends with it, and why a server could not be asked is told.
func TestPursuitEndsWithItsPod(t *testing.T) {
	p := &corev1.PodCertificateProjection{SignerName: "example.com/s", KeyType: "ED25519"}
	s := sign(t)
	c, _ := certificates(t, s, &memory{rows: map[string][]byte{}})
	stranger := pod.DeepCopy()
	stranger.Namespace = "elsewhere"
	if _, _, err := c.Certificate(t.Context(), stranger, p); err == nil || !strings.Contains(err.Error(), "ask example.com/s for a certificate: while fetching service account: 404") {
		t.Errorf("%v", err)
	}
	c.mu.Lock()
	var one *pursuit
	for _, one = range c.pursued {
	}
	c.mu.Unlock()
	c.Forget("u1")
	if _, _, err := c.Certificate(t.Context(), pod, p); err == nil || err.Error() != "credential bundle is not issued yet" {
		t.Errorf("%v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, other := range c.pursued {
		if other == one || len(c.pursued) != 1 {
			t.Error("what was pursued for a pod that is gone is pursued yet")
		}
	}
}

// A pod that has a certificate keeps it for as long as the signer of its next one takes.
func TestRenewalWaitsForNoSlowSigner(t *testing.T) {
	p := &corev1.PodCertificateProjection{SignerName: "example.com/s", KeyType: "ED25519"}
	s := sign(t)
	s.answers(issue(t, -time.Hour)) // to be renewed from the beginning
	c, told := certificates(t, s, &memory{rows: map[string][]byte{}})
	if _, _, err := c.Certificate(t.Context(), pod, p); err == nil { // it is had, and asked for anew with the next look
		t.Log("had at once")
	}
	s.answers(nil)
	old, _, err := c.Certificate(t.Context(), pod, p)
	if err != nil {
		t.Fatal(err)
	}
	began, n := time.Now(), s.asked()
	for range 3 { // each look is at the same request
		if key, _, err := c.Certificate(t.Context(), pod, p); err != nil || string(key) != string(old) || s.asked() != n {
			t.Errorf("%v, asked %d times", err, s.asked())
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("the old certificate took %v", took)
	}
	for len(told) > 0 {
		<-told
	}
	s.answers(issue(t, 30*time.Minute))
	toldOf(t, told)
	if key, _, err := c.Certificate(t.Context(), pod, p); err != nil || string(key) == string(old) || s.asked() != n {
		t.Errorf("not renewed: %v, asked %d times", err, s.asked())
	}
}
