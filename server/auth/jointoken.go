package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// ErrToken is wrapped by every refusal of a join token.
var ErrToken = errors.New("join token refused")

const (
	tokenVersion   = "bramble1"
	tokenNamespace = metav1.NamespaceSystem
	tokenSecret    = "bootstrap-token-"
	// usageJoin marks Secrets that let a node join. The usages of kubeadm are absent, so that such a token is nothing to the API.
	usageJoin = "usage-bramble-join"
)

// JoinToken is what a joining node presents; "bramble1.<CAHash>.<ID>.<Secret>" in writing.
type JoinToken struct {
	CAHash string // pins the cluster's authority: hexadecimal SHA-256 of its certificate
	ID     string // public half, names the Secret
	Secret string
}

func (t JoinToken) String() string {
	return strings.Join([]string{tokenVersion, t.CAHash, t.ID, t.Secret}, ".")
}

var tokenForm = regexp.MustCompile(`^` + tokenVersion + `\.([0-9a-f]{64})\.([a-z0-9]{6})\.([a-z0-9]{16})$`)

// ParseJoinToken reads a token as users see it.
func ParseJoinToken(s string) (JoinToken, error) {
	m := tokenForm.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return JoinToken{}, fmt.Errorf("%w: it must look like %s.<hash>.<id>.<secret>; make one with: bramble token create", ErrToken, tokenVersion)
	}
	return JoinToken{CAHash: m[1], ID: m[2], Secret: m[3]}, nil
}

// NewJoinToken makes a token that is good for ttl (0: until its Secret is deleted) and returns it as users see it.
func NewJoinToken(ctx context.Context, client kubernetes.Interface, ttl time.Duration, caHash string) (string, error) {
	t := JoinToken{CAHash: caHash, ID: randomText(6), Secret: randomText(16)}
	data := map[string][]byte{"token-id": []byte(t.ID), "token-secret": []byte(t.Secret), usageJoin: []byte("true"), "description": []byte("lets a node join")}
	if ttl > 0 {
		data["expiration"] = []byte(time.Now().Add(ttl).UTC().Format(time.RFC3339))
	}
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: tokenSecret + t.ID, Namespace: tokenNamespace}, Type: corev1.SecretTypeBootstrapToken, Data: data}
	if _, err := client.CoreV1().Secrets(tokenNamespace).Create(ctx, s, metav1.CreateOptions{}); err != nil {
		return "", fmt.Errorf("make a join token: %w", err)
	}
	return t.String(), nil
}

// CheckJoinToken tells whether a node may join with the token: nil, or an error that wraps ErrToken and says why not.
func CheckJoinToken(ctx context.Context, client kubernetes.Interface, token, caHash string) error {
	t, err := ParseJoinToken(token)
	if err != nil {
		return err
	}
	if t.CAHash != caHash {
		return fmt.Errorf("%w: it belongs to another cluster; make one here with: bramble token create", ErrToken)
	}
	s, err := client.CoreV1().Secrets(tokenNamespace).Get(ctx, tokenSecret+t.ID, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%w: the cluster has no token %s: it has expired, was deleted, or never was; make one with: bramble token create", ErrToken, t.ID)
	}
	if err != nil {
		return fmt.Errorf("check join token %s: %w", t.ID, err)
	}
	if s.Type != corev1.SecretTypeBootstrapToken || string(s.Data[usageJoin]) != "true" || subtle.ConstantTimeCompare(s.Data["token-secret"], []byte(t.Secret)) != 1 {
		return fmt.Errorf("%w: token %s has another secret", ErrToken, t.ID)
	}
	if e, ok := s.Data["expiration"]; ok {
		at, err := time.Parse(time.RFC3339, string(e))
		if err != nil || time.Now().After(at) {
			return fmt.Errorf("%w: token %s expired at %s; make one with: bramble token create", ErrToken, t.ID, e)
		}
	}
	return nil
}

// randomText gives n letters and digits; a failing random source ends the process, as crypto/rand documents.
func randomText(n int) string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	b := make([]byte, n)
	for i := range b {
		k, _ := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet))))
		b[i] = alphabet[k.Int64()]
	}
	return string(b)
}
