package tokencleaner

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

func TestTokensGoWhenTheirTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := cachetest.New()
		secrets := api.Client().CoreV1().Secrets(metav1.NamespaceSystem)
		create := func(name string, kind corev1.SecretType, expiration string) {
			s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: kind, Data: map[string][]byte{}}
			if expiration != "" {
				s.Data["expiration"] = []byte(expiration)
			}
			if _, err := secrets.Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
		create("bootstrap-token-past00", corev1.SecretTypeBootstrapToken, in(-time.Hour))
		create("bootstrap-token-soon00", corev1.SecretTypeBootstrapToken, in(time.Minute))
		create("bootstrap-token-bad000", corev1.SecretTypeBootstrapToken, "tomorrow")
		create("bootstrap-token-ever00", corev1.SecretTypeBootstrapToken, "")
		create("bootstrap-token-opaque", corev1.SecretTypeOpaque, in(-time.Hour))
		defer api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
			return New(Inputs{Client: client, Caches: set, Log: slog.New(slog.DiscardHandler)})
		}).Stop()
		check := func(when time.Duration, want map[string]bool) {
			t.Helper()
			time.Sleep(when)
			synctest.Wait()
			for name := range want {
				_, err := secrets.Get(t.Context(), "bootstrap-token-"+name, metav1.GetOptions{})
				if gone := apierrors.IsNotFound(err); gone != want[name] {
					t.Errorf("%s is gone: %v", name, gone)
				}
			}
		}
		check(time.Second, map[string]bool{"past00": true, "bad000": true, "soon00": false, "ever00": false, "opaque": false})
		create("bootstrap-token-next00", corev1.SecretTypeBootstrapToken, in(2*time.Minute))
		check(time.Minute, map[string]bool{"soon00": true, "next00": false})
		check(2*time.Minute, map[string]bool{"next00": true, "ever00": false})
	})
}
