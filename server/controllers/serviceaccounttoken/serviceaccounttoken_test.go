package serviceaccounttoken

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/cache/cachetest"
)

func TestTokensOfAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := cachetest.New()
		core := api.Client().CoreV1()
		secrets, accounts := core.Secrets("shop"), core.ServiceAccounts("shop")
		account := func(name string, holds ...string) {
			a := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
			for _, s := range holds {
				a.Secrets = append(a.Secrets, corev1.ObjectReference{Name: s})
			}
			if _, err := accounts.Create(t.Context(), a, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		create := func(name string, kind corev1.SecretType, of string, data map[string][]byte) {
			s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: of}}, Type: kind, Data: data}
			if _, err := secrets.Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		there := func(name string) *corev1.Secret {
			s, err := secrets.Get(t.Context(), name, metav1.GetOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				t.Fatal(err)
			}
			if err != nil {
				return nil
			}
			return s
		}
		settle := func() { time.Sleep(time.Minute); synctest.Wait() }

		account("ci", "robot", "other", "spare")
		create("early", corev1.SecretTypeServiceAccountToken, "ci", nil)
		create("lost", corev1.SecretTypeServiceAccountToken, "nobody", nil)
		var ours kubernetes.Interface
		defer api.Start(func(client kubernetes.Interface, set *cache.Set) cachetest.Runner {
			ours = client
			return New(Inputs{
				Client: client, Caches: set, ServiceAccounts: set.ServiceAccounts(), CACertPEM: []byte("ca"), Log: slog.New(slog.DiscardHandler),
				Sign: func(_ context.Context, a *corev1.ServiceAccount, s *corev1.Secret) (string, error) {
					return "token of " + a.Name + " in " + s.Name, nil
				},
			})
		}).Stop()
		create("robot", corev1.SecretTypeServiceAccountToken, "ci", map[string][]byte{"extra": []byte("kept")})
		create("spare", corev1.SecretTypeServiceAccountToken, "ci", nil)
		create("plain", corev1.SecretTypeOpaque, "ci", nil)
		settle()

		for _, name := range []string{"early", "robot"} {
			s := there(name)
			if got := string(s.Data["token"]) + "|" + string(s.Data["ca.crt"]) + "|" + string(s.Data["namespace"]); got != "token of ci in "+name+"|ca|shop" {
				t.Errorf("%s: %s", name, got)
			}
			if a, _ := accounts.Get(t.Context(), "ci", metav1.GetOptions{}); s.Annotations[corev1.ServiceAccountUIDKey] != string(a.UID) || a.UID == "" {
				t.Errorf("%s is of account %q, and that is %q", name, s.Annotations[corev1.ServiceAccountUIDKey], a.UID)
			}
		}
		if s := there("robot"); string(s.Data["extra"]) != "kept" {
			t.Errorf("what else was there: %v", s.Data)
		}
		if there("lost") != nil {
			t.Error("a token of nobody stays")
		}
		if s := there("plain"); s == nil || len(s.Data) != 0 {
			t.Errorf("another Secret: %+v", s)
		}
		for _, a := range ours.(*fake.Clientset).Actions() {
			if get, ok := a.(clienttesting.GetAction); ok && get.GetName() == "plain" {
				t.Error("a Secret is read that holds no token")
			}
		}

		if err := secrets.Delete(t.Context(), "robot", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		api.Source.Quietly(func() { // the cache loses its place meanwhile
			if err := secrets.Delete(t.Context(), "spare", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		})
		settle()
		if a, _ := accounts.Get(t.Context(), "ci", metav1.GetOptions{}); len(a.Secrets) != 1 || a.Secrets[0].Name != "other" {
			t.Errorf("the account still names %v", a.Secrets)
		}

		// An account of the same name is another one, and the tokens were not its.
		if err := accounts.Delete(t.Context(), "ci", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		account("ci")
		settle()
		if there("early") != nil {
			t.Error("a token outlives its account")
		}
		if there("plain") == nil {
			t.Error("another Secret went with the account")
		}
	})
}
