// Package tokencleaner deletes bootstrap tokens whose time is over.
//
// Invariant: no Secret is kept in memory, and only one is deleted that the API itself, asked last, has as an expired token.
//
//	l := tokencleaner.New(tokencleaner.Inputs{...})
//	l.Run(ctx)
package tokencleaner

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstrapsecrets "k8s.io/cluster-bootstrap/util/secrets"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client kubernetes.Interface
	Caches *cache.Set
	Log    *slog.Logger
}

type controller struct {
	Inputs
	loop *loop.Loop
}

// New makes the controller; its keys are Secrets that are named as tokens are.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in}
	c.loop = loop.New("token-cleaner", in.Log, c.reconcile)
	loop.WatchKeys(c.loop, in.Caches, schema.GroupResource{Resource: "secrets"}, func(key loop.Key, _ []byte) []loop.Key {
		if key.Namespace == metav1.NamespaceSystem && strings.HasPrefix(key.Name, bootstrapapi.BootstrapTokenSecretPrefix) {
			return []loop.Key{key}
		}
		return nil
	})
	return c.loop
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	secrets := c.Client.CoreV1().Secrets(key.Namespace)
	s, err := secrets.Get(ctx, key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read Secret: %w", err)
	}
	if s.Type != corev1.SecretTypeBootstrapToken || s.DeletionTimestamp != nil {
		return nil
	}
	left, expired := bootstrapsecrets.GetExpiration(s, time.Now())
	if !expired {
		if left > 0 {
			c.loop.After(key, left)
		}
		return nil
	}
	err = secrets.Delete(ctx, key.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete expired token: %w", err)
	}
	return nil
}
