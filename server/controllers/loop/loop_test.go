package loop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
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

// TestPanic: what one object brings out ends neither the process nor the work on others.
func TestPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told bytes.Buffer
		var bad, fine atomic.Int32
		l := New("test", slog.New(slog.NewTextHandler(&told, nil)), func(_ context.Context, key Key) error {
			if key.Name == "bad" && bad.Add(1) < 4 {
				var none []int
				_ = none[key.Namespace[0]]
			}
			if key.Name == "fine" {
				fine.Add(1)
			}
			return nil
		}).OneWorker()
		l.Enqueue(Key{Namespace: "ns", Name: "bad"})
		l.Enqueue(Key{Namespace: "ns", Name: "fine"})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { l.Run(ctx); close(done) }()
		time.Sleep(time.Minute)
		cancel()
		<-done
		if b, f := bad.Load(), fine.Load(); b != 4 || f != 1 {
			t.Errorf("runs: bad %d, fine %d; want 4, 1", b, f)
		}
		if log := told.String(); strings.Count(log, "level=ERROR") != 3 || !strings.Contains(log, "key=ns/bad") || !strings.Contains(log, "index out of range") || !strings.Contains(log, "loop_test.go") {
			t.Errorf("log:\n%s", log)
		}
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
		if err := w.Settle(t.Context(), key); !errors.Is(err, ErrNotSeen) {
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

// A key whose writes the cache does not show for long is looked at soon after it does, and an operator hears of it meanwhile,
// but not of each time.
func TestACacheThatIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w Writes
		key, seen, done := Key{Name: "a"}, make(chan struct{}), make(chan time.Time, 1)
		w.Add(key, func(ctx context.Context) error {
			select {
			case <-seen:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		var said bytes.Buffer
		l := New("test", slog.New(slog.NewTextHandler(&said, nil)), func(ctx context.Context, key Key) error {
			if err := w.Settle(ctx, key); err != nil {
				return err
			}
			done <- time.Now()
			return nil
		})
		l.Enqueue(key)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { l.Run(ctx); close(ended) }()
		time.Sleep(85 * time.Second)
		close(seen)
		shown := time.Now()
		if late := (<-done).Sub(shown); late > 2*settleTime {
			t.Errorf("looked at %v after the cache had caught up", late)
		}
		cancel()
		<-ended
		if n := strings.Count(said.String(), "level=WARN"); n != 2 {
			t.Errorf("in 85 s it is said %d times: %s", n, said.String())
		}
	})
}

func TestWhatIsExpectedIsNoNews(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	conflict := apierrors.NewConflict(pods, "a", errors.New("changed"))
	for _, c := range []struct {
		name string
		err  error
		want bool
	}{
		{"a conflict", fmt.Errorf("write: %w", conflict), true},
		{"conflicts of several objects", fmt.Errorf("claim: %w", errors.Join(conflict, conflict)), true},
		{"a conflict that comes with a failure", fmt.Errorf("claim: %w", errors.Join(errors.New("the disk is full"), conflict)), false},
		{"a quota without room", fmt.Errorf("create: %w", apierrors.NewForbidden(pods, "a",
			errors.New("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"))), true},
		{"an owner of a kind that is gone", fmt.Errorf("owner: %w", &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: "example.com", Kind: "Widget"}}), true},
		{"a right that is missing", apierrors.NewForbidden(pods, "a", errors.New("no")), false},
		{"anything else", errors.New("exceeded quota: of a disk"), false},
	} {
		synctest.Test(t, func(t *testing.T) {
			var said bytes.Buffer
			l := New("test", slog.New(slog.NewTextHandler(&said, nil)), func(context.Context, Key) error { return c.err })
			l.Enqueue(Key{Name: "a"})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			l.Run(ctx)
			if quiet := said.Len() == 0; quiet != c.want {
				t.Errorf("%s: expected %v, the log says %q", c.name, c.want, said.String())
			}
		})
	}
}
