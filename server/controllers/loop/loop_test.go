package loop

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var quiet = slog.New(slog.DiscardHandler)

func TestRetriesWithBackoffButNotWhatIsPermanent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failing, hopeless, fine atomic.Int32
		l := New("test", quiet, func(_ context.Context, key Key) error {
			switch key.Name {
			case "failing":
				if failing.Add(1) < 5 {
					return errors.New("not yet")
				}
			case "hopeless":
				hopeless.Add(1)
				return Permanent(errors.New("never"))
			default:
				fine.Add(1)
			}
			return nil
		})
		for _, name := range []string{"failing", "hopeless", "fine", "fine"} {
			l.Enqueue(Key{Name: name})
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { l.Run(ctx); close(done) }()
		time.Sleep(time.Minute)
		if f, h, ok := failing.Load(), hopeless.Load(), fine.Load(); f != 5 || h != 1 || ok != 1 {
			t.Errorf("runs: failing %d, hopeless %d, fine %d; want 5, 1, 1", f, h, ok)
		}
		cancel()
		<-done
	})
}

func TestRunReturnsAfterItsWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running atomic.Bool
		l := New("test", quiet, func(ctx context.Context, _ Key) error {
			running.Store(true)
			<-ctx.Done()
			time.Sleep(time.Second) // its last words
			running.Store(false)
			return ctx.Err()
		})
		l.Enqueue(Key{Name: "slow"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		l.Run(ctx)
		if running.Load() {
			t.Error("Run returned while a reconcile was running")
		}
	})
}

func TestSettleKeepsWhatWasNotSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w Writes
		key := Key{Name: "a"}
		seen := make(chan struct{})
		w.Add(key, func(ctx context.Context) error {
			select {
			case <-seen:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if err := w.Settle(t.Context(), key); !errors.Is(err, errNotSeen) {
			t.Errorf("got %v before the write was seen", err)
		}
		close(seen)
		if err := w.Settle(t.Context(), key); err != nil {
			t.Error(err)
		}
		if len(w.pending) != 0 {
			t.Error("a seen write is still remembered")
		}
	})
}
