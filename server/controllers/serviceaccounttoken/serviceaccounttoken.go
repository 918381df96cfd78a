// Package serviceaccounttoken fills the Secrets of type kubernetes.io/service-account-token that people make for programs
// outside the cluster: with a token of the account that they name, the cluster's CA and the namespace. They go with the account.
//
// Invariant: no Secret is kept in memory, only the names of those that hold tokens; a token that is there is never replaced.
//
//	l := serviceaccounttoken.New(serviceaccounttoken.Inputs{...})
//	l.Run(ctx)
package serviceaccounttoken

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client          kubernetes.Interface
	Caches          *cache.Set
	ServiceAccounts *cache.Cache[corev1.ServiceAccount]
	// Sign makes the token of an account that is good for as long as the Secret is there.
	Sign      func(context.Context, *corev1.ServiceAccount, *corev1.Secret) (string, error)
	CACertPEM []byte
	Log       *slog.Logger
}

type controller struct {
	Inputs

	mu       sync.Mutex
	accounts map[loop.Key]string // of the Secrets that hold tokens: whose
}

// New makes the controller; its keys are Secrets.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in, accounts: map[loop.Key]string{}}
	l := loop.New("serviceaccount-token-controller", in.Log, c.reconcile)
	loop.WatchKeys(l, in.Caches, schema.GroupResource{Resource: "secrets"}, c.keysOfSecret)
	loop.Watch(l, in.ServiceAccounts, func(change cache.Change[corev1.ServiceAccount]) []loop.Key {
		if change.Old == nil || change.New != nil && change.New.UID == change.Old.UID {
			return nil
		}
		return c.tokensOf(change.Key())
	})
	return l
}

// keysOfSecret wakes a Secret that holds a token, or did; all of them when some may be gone unseen.
func (c *controller) keysOfSecret(key loop.Key, value []byte) []loop.Key {
	if key.Name == "" {
		return c.tokens(func(loop.Key, string) bool { return true })
	}
	if value != nil {
		if s, err := cache.Decode[corev1.Secret](value); err == nil && s.Type != corev1.SecretTypeServiceAccountToken {
			return nil
		}
	}
	return []loop.Key{key}
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	s, err := c.Client.CoreV1().Secrets(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return c.gone(ctx, key)
	}
	if err != nil {
		return fmt.Errorf("read Secret: %w", err)
	}
	name := s.Annotations[corev1.ServiceAccountNameKey]
	if s.Type != corev1.SecretTypeServiceAccountToken || s.DeletionTimestamp != nil || name == "" {
		return nil
	}
	c.remember(key, name)
	account, err := c.Client.CoreV1().ServiceAccounts(key.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("read ServiceAccount: %w", err)
	}
	if uid := s.Annotations[corev1.ServiceAccountUIDKey]; err != nil || uid != "" && uid != string(account.UID) {
		err = c.Client.CoreV1().Secrets(key.Namespace).Delete(ctx, key.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.UID))})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete the token of an account that is gone: %w", err)
		}
		return nil
	}
	changed, err := c.fill(ctx, s, account)
	if err != nil || !changed {
		return err
	}
	_, err = c.Client.CoreV1().Secrets(key.Namespace).Update(ctx, s, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // who changed it enqueues it again
		return fmt.Errorf("fill Secret: %w", err)
	}
	return nil
}

// fill puts into a Secret what it lacks, and says whether that was anything.
func (c *controller) fill(ctx context.Context, s *corev1.Secret, account *corev1.ServiceAccount) (changed bool, err error) {
	if s.Data == nil {
		s.Data = map[string][]byte{}
	}
	if !bytes.Equal(s.Data[corev1.ServiceAccountRootCAKey], c.CACertPEM) {
		s.Data[corev1.ServiceAccountRootCAKey], changed = c.CACertPEM, true
	}
	if len(s.Data[corev1.ServiceAccountNamespaceKey]) == 0 {
		s.Data[corev1.ServiceAccountNamespaceKey], changed = []byte(s.Namespace), true
	}
	if len(s.Data[corev1.ServiceAccountTokenKey]) == 0 {
		token, err := c.Sign(ctx, account, s)
		if err != nil {
			return false, fmt.Errorf("sign a token: %w", err)
		}
		s.Data[corev1.ServiceAccountTokenKey], changed = []byte(token), true
	}
	if changed {
		s.Annotations[corev1.ServiceAccountUIDKey] = string(account.UID)
	}
	return changed, nil
}

// gone takes a Secret that held a token out of the list that its account keeps.
func (c *controller) gone(ctx context.Context, key loop.Key) error {
	name, ok := c.forget(key)
	if !ok {
		return nil
	}
	accounts := c.Client.CoreV1().ServiceAccounts(key.Namespace)
	account, err := accounts.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil {
		named := func(r corev1.ObjectReference) bool { return r.Name == key.Name }
		if !slices.ContainsFunc(account.Secrets, named) {
			return nil
		}
		account.Secrets = slices.DeleteFunc(account.Secrets, named)
		_, err = accounts.Update(ctx, account, metav1.UpdateOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		c.remember(key, name)
		return fmt.Errorf("take a token that is gone from its ServiceAccount: %w", err)
	}
	return nil
}

func (c *controller) remember(key loop.Key, account string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.accounts[key] = account
}

func (c *controller) forget(key loop.Key) (account string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	account, ok = c.accounts[key]
	delete(c.accounts, key)
	return account, ok
}

// tokensOf are the Secrets that hold an account's tokens.
func (c *controller) tokensOf(account loop.Key) []loop.Key {
	return c.tokens(func(key loop.Key, name string) bool {
		return key.Namespace == account.Namespace && name == account.Name
	})
}

// tokens are the Secrets that hold tokens, of the accounts that are asked for.
func (c *controller) tokens(of func(key loop.Key, account string) bool) []loop.Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	var keys []loop.Key
	for key, name := range c.accounts {
		if of(key, name) {
			keys = append(keys, key)
		}
	}
	return keys
}
