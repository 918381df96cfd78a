// Package ttlafterfinished deletes Jobs when ttlSecondsAfterFinished have gone
// by since they ended.
//
// Invariant: a Job is deleted only if the API itself, asked last, still has it
// with a time to live that is over; its pods go before it does.
//
//	l := ttlafterfinished.New(ttlafterfinished.Inputs{...})
//	l.Run(ctx)
package ttlafterfinished

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	batchv1 "k8s.io/api/batch/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/job"
	"bramble.dev/server/controllers/loop"
)

// Inputs is what the controller reads and writes with.
type Inputs struct {
	Client kubernetes.Interface
	Jobs   *cache.Cache[batchv1.Job]
	Log    *slog.Logger
}

type controller struct {
	Inputs
	loop *loop.Loop
}

// New makes the controller; its keys are Jobs.
func New(in Inputs) *loop.Loop {
	c := &controller{Inputs: in}
	c.loop = loop.New("ttl-after-finished-controller", in.Log, c.reconcile)
	loop.Watch(c.loop, in.Jobs, func(change cache.Change[batchv1.Job]) []loop.Key {
		if change.New == nil {
			return nil
		}
		if _, ok := expiry(change.New); !ok {
			return nil
		}
		return []loop.Key{change.Key()}
	})
	return c.loop
}

// expiry is when a Job is to be deleted, if it has ended and time ends it.
func expiry(j *batchv1.Job) (at time.Time, ok bool) {
	end := job.Finished(j)
	if end == nil || end.LastTransitionTime.IsZero() || j.Spec.TTLSecondsAfterFinished == nil || j.DeletionTimestamp != nil {
		return time.Time{}, false
	}
	return end.LastTransitionTime.Add(time.Duration(*j.Spec.TTLSecondsAfterFinished) * time.Second), true
}

func (c *controller) reconcile(ctx context.Context, key loop.Key) error {
	j, ok := c.Jobs.Get(key.Namespace, key.Name)
	if !ok || !c.expired(key, j) {
		return nil
	}
	fresh, err := c.Client.BatchV1().Jobs(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read Job: %w", err)
	}
	if !c.expired(key, fresh) {
		return nil
	}
	foreground := metav1.DeletePropagationForeground
	err = c.Client.BatchV1().Jobs(key.Namespace).Delete(ctx, key.Name, metav1.DeleteOptions{
		PropagationPolicy: &foreground, Preconditions: metav1.NewUIDPreconditions(string(fresh.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete Job whose time to live is over: %w", err)
	}
	return nil
}

// expired says that a Job's time is over, or comes back when it will be.
func (c *controller) expired(key loop.Key, j *batchv1.Job) bool {
	at, ok := expiry(j)
	if !ok {
		return false
	}
	if left := time.Until(at); left > 0 {
		c.loop.After(key, left)
		return false
	}
	return true
}
