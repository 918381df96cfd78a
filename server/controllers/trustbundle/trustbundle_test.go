package trustbundle

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	certificatesv1 "k8s.io/api/certificates/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

func TestTheSignerHasOneBundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := cachetest.New()
		client := api.Client().CertificatesV1().ClusterTrustBundles()
		bundle := func(name, signer, content string) *certificatesv1.ClusterTrustBundle {
			return &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: content}}
		}
		// Of an authority that was before, and of another signer.
		for _, b := range []*certificatesv1.ClusterTrustBundle{bundle(prefix+"old", signer, "old"), bundle("example.com:signer:v1", "example.com/signer", "theirs")} {
			if _, err := client.Create(t.Context(), b, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		defer api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
			return New(Inputs{Client: client, Caches: set, CACertPEM: []byte("the authority"), Log: slog.New(slog.DiscardHandler)})
		}).Stop()
		settled := func() map[string]string {
			time.Sleep(time.Second)
			synctest.Wait()
			list, err := client.List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			out := map[string]string{}
			for _, b := range list.Items {
				out[b.Name] = b.Spec.SignerName + " " + b.Spec.TrustBundle
			}
			return out
		}
		const name = "kubernetes.io:kube-apiserver-serving:2f612323bf22d38050ba25b6"
		check := func(when string) {
			t.Helper()
			got := settled()
			if len(got) != 2 || got[name] != signer+" the authority" || got["example.com:signer:v1"] != "example.com/signer theirs" {
				t.Errorf("%s: %q", when, got)
			}
		}
		check("at first")
		if err := client.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		check("after somebody deleted it")
		if _, err := client.Update(t.Context(), bundle(name, signer, "another's"), metav1.UpdateOptions{}); err != nil && !strings.Contains(err.Error(), "resourceVersion") {
			t.Fatal(err)
		}
		check("after somebody changed it")
		if _, err := client.Create(t.Context(), bundle(prefix+"mine", signer, "another's"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		check("after somebody made another")
	})
}
