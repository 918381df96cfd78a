// Package rootca publishes the cluster's CA certificate in each namespace, in
// the ConfigMap that pods mount beside their token.
//
// Invariant: an active namespace has it with exactly this content, whatever
// anybody does to it.
//
//	l := rootca.New(rootca.Inputs{...})
//	l.Run(ctx)
//
// Tests: server/controllers/controllers_test.go
package rootca

import (
	"context"
	"fmt"
	"log/slog"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

// Name is that of the ConfigMap.
const Name = "kube-root-ca.crt"

const (
	annotation  = "kubernetes.io/description"
	description = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client     kubernetes.Interface
	Namespaces *cache.Cache[corev1.Namespace]
	ConfigMaps *cache.Cache[corev1.ConfigMap] // those of this name are enough
	CACertPEM  []byte
	Log        *slog.Logger
}

// New makes the controller; its keys are namespaces.
func New(in Inputs) *loop.Loop {
	l := loop.New("root-ca-cert-publisher", in.Log, in.reconcile)
	loop.Watch(l, in.Namespaces, loop.Self)
	loop.Watch(l, in.ConfigMaps, func(change cache.Change[corev1.ConfigMap]) []loop.Key {
		if cm := change.Object(); cm.Name == Name && change.Old != nil {
			return []loop.Key{{Name: cm.Namespace}}
		}
		return nil
	})
	return l
}

func (in Inputs) reconcile(ctx context.Context, key loop.Key) error {
	ns, ok := in.Namespaces.Get("", key.Name)
	if !ok || ns.DeletionTimestamp != nil || ns.Status.Phase == corev1.NamespaceTerminating {
		return nil
	}
	data := map[string]string{"ca.crt": string(in.CACertPEM)}
	client := in.Client.CoreV1().ConfigMaps(key.Name)
	present, ok := in.ConfigMaps.Get(key.Name, Name)
	if !ok {
		_, err := client.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: Name, Annotations: map[string]string{annotation: description}},
			Data:       data,
		}, metav1.CreateOptions{})
		if err == nil || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return fmt.Errorf("create ConfigMap: %w", err)
	}
	if equality.Semantic.DeepEqual(present.Data, data) && present.Annotations[annotation] != "" {
		return nil
	}
	wanted := present.DeepCopy()
	wanted.Data = data
	metav1.SetMetaDataAnnotation(&wanted.ObjectMeta, annotation, description)
	if _, err := client.Update(ctx, wanted, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update ConfigMap: %w", err)
	}
	return nil
}
