// Package serviceaccount gives each namespace the ServiceAccount "default" that
// pods run under which name no other.
//
// Invariant: an active namespace has it; it is never changed once it exists.
//
//	l := serviceaccount.New(serviceaccount.Inputs{...})
//	l.Run(ctx)
//
// Tests: server/controllers/controllers_test.go
package serviceaccount

import (
	"context"
	"fmt"
	"log/slog"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

const name = "default"

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client          kubernetes.Interface
	Namespaces      *cache.Cache[corev1.Namespace]
	ServiceAccounts *cache.Cache[corev1.ServiceAccount]
	Log             *slog.Logger
}

// New makes the controller; its keys are namespaces.
func New(in Inputs) *loop.Loop {
	l := loop.New("service-account-controller", in.Log, in.reconcile)
	loop.Watch(l, in.Namespaces, loop.Self)
	loop.Watch(l, in.ServiceAccounts, func(change cache.Change[corev1.ServiceAccount]) []loop.Key {
		if change.New != nil || change.Old.Name != name {
			return nil
		}
		return []loop.Key{{Name: change.Old.Namespace}}
	})
	return l
}

func (in Inputs) reconcile(ctx context.Context, key loop.Key) error {
	ns, ok := in.Namespaces.Get("", key.Name)
	if !ok || ns.DeletionTimestamp != nil || ns.Status.Phase == corev1.NamespaceTerminating {
		return nil
	}
	if _, ok := in.ServiceAccounts.Get(key.Name, name); ok {
		return nil
	}
	_, err := in.Client.CoreV1().ServiceAccounts(key.Name).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err == nil || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return fmt.Errorf("create ServiceAccount: %w", err)
}
