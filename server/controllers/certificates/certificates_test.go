package certificates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/auth"
	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

// request is one for what the template says, with a key of its own.
func request(t *testing.T, name, signer string, template x509.CertificateRequest, seconds int32, usages ...certificatesv1.KeyUsage) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{
		SignerName: signer, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), Usages: usages, ExpirationSeconds: &seconds,
	}}
}

func condition(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) {
	r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: t, Status: corev1.ConditionTrue, LastUpdateTime: metav1.Now()})
}

const (
	digital  = certificatesv1.UsageDigitalSignature
	encipher = certificatesv1.UsageKeyEncipherment
	asClient = certificatesv1.UsageClientAuth
	asServer = certificatesv1.UsageServerAuth
)

func TestApprovedRequestsAreSigned(t *testing.T) {
	kim := x509.CertificateRequest{Subject: pkix.Name{CommonName: "kim", Organization: []string{"developers"}}}
	node := x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:pi", Organization: []string{"system:nodes"}}}
	serving, named := node, node
	serving.IPAddresses, named.DNSNames = []net.IP{net.IPv4(10, 0, 0, 1)}, []string{"pi"}
	const client, kubelet, kubeletServing = certificatesv1.KubeAPIServerClientSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName
	tests := []struct {
		name     string
		signer   string
		template x509.CertificateRequest
		usages   []certificatesv1.KeyUsage
		refused  string
	}{
		{"a user", client, kim, []certificatesv1.KeyUsage{asClient}, ""},
		{"a user as a server", client, kim, []certificatesv1.KeyUsage{asClient, asServer}, "invalid usage for client certificate: server auth"},
		{"a user for nothing", client, kim, []certificatesv1.KeyUsage{digital}, "missing required usage for client certificate: client auth"},
		{"a node", kubelet, node, []certificatesv1.KeyUsage{asClient, digital, encipher}, ""},
		{"a node without RSA", kubelet, node, []certificatesv1.KeyUsage{digital, asClient}, ""},
		{"a node for more", kubelet, node, []certificatesv1.KeyUsage{digital, asClient, asServer}, "usages did not match [client auth digital signature key encipherment]"},
		{"a user as a node", kubelet, kim, []certificatesv1.KeyUsage{digital, asClient}, "subject organization is not system:nodes"},
		{"a node with names", kubelet, named, []certificatesv1.KeyUsage{digital, asClient}, "DNS subjectAltNames are not allowed"},
		{"a node that serves", kubeletServing, serving, []certificatesv1.KeyUsage{digital, encipher, asServer}, ""},
		{"a node that serves nowhere", kubeletServing, node, []certificatesv1.KeyUsage{digital, encipher, asServer}, "DNS or IP subjectAltName is required"},
	}
	pki, err := auth.OpenPKI(t.TempDir(), auth.PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := request(t, "r", tt.signer, tt.template, 3600, tt.usages...)
			c := &controller{Inputs: Inputs{Sign: pki.SignRequest}}
			if err := c.answer(r); err != nil {
				t.Fatal(err)
			}
			if tt.refused != "" {
				if len(r.Status.Conditions) != 1 || r.Status.Conditions[0].Type != certificatesv1.CertificateFailed || r.Status.Conditions[0].Message != tt.refused || r.Status.Certificate != nil {
					t.Errorf("%+v", r.Status)
				}
				return
			}
			b, _ := pem.Decode(r.Status.Certificate)
			cert, err := x509.ParseCertificate(b.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := cert.Verify(x509.VerifyOptions{Roots: pki.CAPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
				t.Error(err)
			}
			if cert.Subject.String() != tt.template.Subject.String() || len(cert.IPAddresses) != len(tt.template.IPAddresses) || cert.IsCA {
				t.Errorf("%v %v", cert.Subject, cert.IPAddresses)
			}
			if d := cert.NotAfter.Sub(cert.NotBefore); d != time.Hour+5*time.Minute {
				t.Errorf("it lasts %v", d)
			}
		})
	}
	broken := request(t, "r", client, kim, 3600, asClient)
	broken.Spec.Request = []byte("nonsense")
	if err := (&controller{}).answer(broken); err == nil || !strings.Contains(err.Error(), "PEM block type must be CERTIFICATE REQUEST") {
		t.Error(err)
	}
}

func TestRequestsGoWhenNobodyNeedsThem(t *testing.T) {
	pki, err := auth.OpenPKI(t.TempDir(), auth.PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		api := cachetest.New()
		client := api.Client().CertificatesV1()
		kim := x509.CertificateRequest{Subject: pkix.Name{CommonName: "kim"}}
		for name, t0 := range map[string]certificatesv1.RequestConditionType{"pending": "", "denied": certificatesv1.CertificateDenied, "approved": certificatesv1.CertificateApproved, "elsewhere": certificatesv1.CertificateApproved} {
			r := request(t, name, certificatesv1.KubeAPIServerClientSignerName, kim, 3600, asClient)
			if name == "elsewhere" {
				r.Spec.SignerName = "example.com/another"
			}
			if t0 != "" {
				condition(r, t0)
			}
			if _, err := client.CertificateSigningRequests().Create(t.Context(), r, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := client.PodCertificateRequests("default").Create(t.Context(), &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Name: "pod"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		log := slog.New(slog.DiscardHandler)
		defer api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
			return New(Inputs{Client: client, Caches: set, Sign: pki.SignRequest, Log: log})
		}).Stop()
		defer api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
			return NewCleaner(CleanerInputs{Client: client, Caches: set, Log: log})
		}).Stop()
		check := func(when time.Duration, there ...string) {
			t.Helper()
			time.Sleep(when)
			synctest.Wait()
			for _, name := range []string{"pending", "denied", "approved", "elsewhere", "pod"} {
				_, err := client.CertificateSigningRequests().Get(t.Context(), name, metav1.GetOptions{})
				if name == "pod" {
					_, err = client.PodCertificateRequests("default").Get(t.Context(), name, metav1.GetOptions{})
				}
				if want := strings.Contains(strings.Join(there, " "), name); want == apierrors.IsNotFound(err) {
					t.Errorf("after %v more: %s: %v", when, name, err)
				}
			}
		}
		check(time.Second, "pending", "denied", "approved", "elsewhere", "pod")
		if r, err := client.CertificateSigningRequests().Get(t.Context(), "approved", metav1.GetOptions{}); err != nil || len(r.Status.Certificate) == 0 {
			t.Errorf("not signed: %v", err)
		}
		if r, err := client.CertificateSigningRequests().Get(t.Context(), "elsewhere", metav1.GetOptions{}); err != nil || len(r.Status.Certificate) != 0 {
			t.Errorf("another's was signed: %v", err)
		}
		check(14*time.Minute, "pending", "denied", "approved", "elsewhere", "pod")
		check(2*time.Minute, "pending", "denied", "approved", "elsewhere")
		check(45*time.Minute, "pending", "elsewhere")
		check(24 * time.Hour)
	})
}
