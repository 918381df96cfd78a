package auth

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestJoinTokens(t *testing.T) {
	ctx := t.Context()
	client := fake.NewClientset()
	hash := strings.Repeat("ab", 32)
	token, err := NewJoinToken(ctx, client, time.Hour, hash)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckJoinToken(ctx, client, token+"\n", hash); err != nil {
		t.Fatalf("a fresh token: %v", err)
	}
	parsed, err := ParseJoinToken(token)
	if err != nil || parsed.CAHash != hash || parsed.String() != token {
		t.Fatalf("parsed %+v, %v", parsed, err)
	}

	expired, err := NewJoinToken(ctx, client, time.Nanosecond, hash)
	if err != nil {
		t.Fatal(err)
	}
	forever, err := NewJoinToken(ctx, client, 0, hash)
	if err != nil {
		t.Fatal(err)
	}
	other := parsed
	other.Secret = strings.Repeat("0", 16)
	unknown := parsed
	unknown.ID = "zzzzzz"
	foreign := parsed
	foreign.CAHash = strings.Repeat("cd", 32)
	kubeadm := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-aaaaaa", Namespace: "kube-system"}, Type: corev1.SecretTypeBootstrapToken,
		Data: map[string][]byte{"token-id": []byte("aaaaaa"), "token-secret": []byte(strings.Repeat("1", 16)), "usage-bootstrap-authentication": []byte("true")}}
	if _, err := client.CoreV1().Secrets("kube-system").Create(ctx, kubeadm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	tests := []struct{ name, token, want string }{
		{"without end", forever, ""},
		{"expired", expired, "expired at"},
		{"wrong secret", other.String(), "another secret"},
		{"deleted", unknown.String(), "no token zzzzzz"},
		{"of another cluster", foreign.String(), "another cluster"},
		{"of another use", JoinToken{hash, "aaaaaa", strings.Repeat("1", 16)}.String(), "another secret"},
		{"empty", "", "must look like"},
		{"cut short", token[:len(token)-1], "must look like"},
		{"another version", strings.Replace(token, "bramble1", "bramble2", 1), "must look like"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := CheckJoinToken(ctx, client, tt.token, hash)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, ErrToken) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want a refusal with %q", err, tt.want)
			}
		})
	}
}

func FuzzParseJoinToken(f *testing.F) {
	f.Add("bramble1." + strings.Repeat("0", 64) + ".abcdef.0123456789abcdef")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ParseJoinToken(s); err == nil && p.String() != strings.TrimSpace(s) {
			t.Errorf("%q became %q", s, p.String())
		}
	})
}
