// Package trustbundle publishes the authority of the API's serving certificates as a ClusterTrustBundle, which pods can mount without
// a ConfigMap in their namespace (KEP-3257).
//
// Invariant: the signer kubernetes.io/kube-apiserver-serving has one bundle, with exactly this content, whatever anybody does to it.
//
//	l := trustbundle.New(trustbundle.Inputs{...})
//	l.Run(ctx)
package trustbundle

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"

	certificatesv1 "k8s.io/api/certificates/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

const signer = "kubernetes.io/kube-apiserver-serving"

// prefix is what the names of the signer's bundles begin with, and nobody else's: the API sees to that.
var prefix = strings.ReplaceAll(signer, "/", ":") + ":"

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client    kubernetes.Interface
	Caches    *cache.Set
	CACertPEM []byte
	Log       *slog.Logger
}

// all is the one key: what is wrong with one bundle may be that there is another.
var all = loop.Key{Name: signer}

// New makes the controller. Bundles are not kept in memory: they change rarely.
func New(in Inputs) *loop.Loop {
	l := loop.New("kube-apiserver-serving-clustertrustbundle-publisher", in.Log, in.reconcile)
	gr := schema.GroupResource{Group: certificatesv1.GroupName, Resource: "clustertrustbundles"}
	loop.WatchKeys(l, in.Caches, gr, func(key loop.Key, _ []byte) []loop.Key {
		if key.Name == "" || strings.HasPrefix(key.Name, prefix) {
			return []loop.Key{all}
		}
		return nil
	})
	l.Enqueue(all) // there may be none yet that could change
	return l
}

func (in Inputs) reconcile(ctx context.Context, _ loop.Key) error {
	bundles := in.Client.CertificatesV1().ClusterTrustBundles()
	list, err := bundles.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list ClusterTrustBundles: %w", err)
	}
	sum := sha256.Sum256(in.CACertPEM)
	wanted := certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s%x", prefix, sum[:12])}, // upstream's name
		Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: string(in.CACertPEM)},
	}
	there := false
	var others []string
	var failed []error
	for _, b := range list.Items {
		switch {
		case b.Spec.SignerName != signer:
		case b.Name != wanted.Name:
			others = append(others, b.Name)
		case b.Spec.TrustBundle != wanted.Spec.TrustBundle:
			there = true
			b.Spec = wanted.Spec
			_, err := bundles.Update(ctx, &b, metav1.UpdateOptions{})
			failed = append(failed, written(err, "update"))
		default:
			there = true
		}
	}
	if !there {
		_, err := bundles.Create(ctx, &wanted, metav1.CreateOptions{})
		failed = append(failed, written(err, "create"))
	}
	// Pods that mount the signer's bundles get all of them: the old ones go only when the new one is there.
	if err := errors.Join(failed...); err != nil {
		return err
	}
	for _, name := range others {
		failed = append(failed, written(bundles.Delete(ctx, name, metav1.DeleteOptions{}), "delete"))
	}
	return errors.Join(failed...)
}

func written(err error, what string) error {
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) { // the change that came before has it looked at again
		return nil
	}
	return fmt.Errorf("%s ClusterTrustBundle: %w", what, err)
}
