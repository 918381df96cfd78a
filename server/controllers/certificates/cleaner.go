package certificates

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loop"
)

// CleanerInputs is what the controller of PodCertificateRequests reads and writes with.
type CleanerInputs struct {
	Client kubernetes.Interface
	Caches *cache.Set
	Log    *slog.Logger
}

type cleaner struct {
	CleanerInputs
	loop *loop.Loop
}

// keepPodRequest is how long a node has to take what it asked for; upstream's number.
const keepPodRequest = 15 * time.Minute

// NewCleaner makes the controller of PodCertificateRequests, which deletes them: each renewal of each pod's certificate leaves one.
func NewCleaner(in CleanerInputs) *loop.Loop {
	c := &cleaner{CleanerInputs: in}
	c.loop = loop.New("podcertificaterequestcleaner", in.Log, c.reconcile)
	loop.WatchKeys(c.loop, in.Caches, resource("podcertificaterequests"), loop.SelfKey)
	return c.loop
}

func (c *cleaner) reconcile(ctx context.Context, key loop.Key) error {
	requests := c.Client.CertificatesV1().PodCertificateRequests(key.Namespace)
	r, err := requests.Get(ctx, key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read PodCertificateRequest: %w", err)
	}
	if left := time.Until(r.CreationTimestamp.Add(keepPodRequest)); left > 0 {
		c.loop.After(key, left)
		return nil
	}
	err = requests.Delete(ctx, r.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(r.UID))})
	return deleted(err, "PodCertificateRequest")
}
