package loop

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/server/cache"
)

// ErrNotSeen says that the caches have not caught up with the controller's own
// writes yet: it is tried again soon, and is no news unless that goes on.
var ErrNotSeen = errors.New("own writes are not in the cache yet")

// settleTime is how long a reconcile waits for its predecessor's writes before
// it goes to the end of the queue.
const settleTime = time.Second

// Writes remembers, for each key, the writes that the caches have not shown
// yet. A reconcile that starts with Settle never acts on a state from before
// its own last step, so that nothing is created twice.
//
//	if err := c.writes.Settle(ctx, key); err != nil {
//		return err
//	}
//	...
//	c.writes.Add(key, c.Pods.Seen(created.ResourceVersion))
type Writes struct {
	mu      sync.Mutex
	pending map[Key][]write
}

type write struct {
	seen func(context.Context) error
	at   time.Time
}

// notSeen is an ErrNotSeen of writes the first of which was made then.
type notSeen struct {
	since time.Time
	cause error
}

func (e notSeen) Error() string        { return fmt.Sprintf("%v: %v", ErrNotSeen, e.cause) }
func (e notSeen) Is(target error) bool { return target == ErrNotSeen }
func (e notSeen) Unwrap() error        { return e.cause }

// Add remembers a write by the function that waits until it has been seen.
func (w *Writes) Add(key Key, seen ...func(context.Context) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pending == nil {
		w.pending = map[Key][]write{}
	}
	for _, f := range seen {
		w.pending[key] = append(w.pending[key], write{f, time.Now()})
	}
}

// Wrote remembers what was written until a cache shows it. It returns the
// write's error, after which there is nothing to remember.
func Wrote[T any](w *Writes, key Key, in *cache.Cache[T], written *T, err error) error {
	if err == nil {
		w.Add(key, in.Seen(any(written).(metav1.Object).GetResourceVersion()))
	}
	return err
}

// Updated is Wrote for a change of what is there: an object that is gone needs
// none. doing is what an error was met at.
func Updated[T any](w *Writes, key Key, in *cache.Cache[T], written *T, err error, doing string) error {
	if err != nil {
		return unlessGone(err, doing)
	}
	return Wrote(w, key, in, written, nil)
}

func unlessGone(err error, doing string) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// Reported is Updated for a status.
func Reported[T any](w *Writes, key Key, in *cache.Cache[T], written *T, err error) error {
	return Updated(w, key, in, written, err, "write status")
}

// Settle waits until all remembered writes of the key have been seen. What was
// not seen in time stays remembered.
func (w *Writes) Settle(ctx context.Context, key Key) error {
	w.mu.Lock()
	pending := w.pending[key]
	delete(w.pending, key)
	w.mu.Unlock()
	if len(pending) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for i, one := range pending {
		if err := one.seen(ctx); err != nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.pending[key] = append(pending[i:], w.pending[key]...)
			return notSeen{one.at, err}
		}
	}
	return nil
}
