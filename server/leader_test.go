package server

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// candidate takes part in an election over a way to the API that can be cut.
type candidate struct {
	*election
	cut   atomic.Bool
	leads chan struct{} // closed when it begins
	ended chan error
	end   context.CancelFunc
}

func newCandidate(t *testing.T, identity string, tracker clienttesting.ObjectTracker) *candidate {
	c := &candidate{election: newElection(identity, slog.New(slog.DiscardHandler)), leads: make(chan struct{}), ended: make(chan error, 1)}
	client := &fake.Clientset{}
	client.AddReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if c.cut.Load() {
			return true, nil, errors.New("the API does not answer")
		}
		return clienttesting.ObjectReaction(tracker)(action)
	})
	ctx, cancel := context.WithCancel(t.Context())
	c.end = cancel
	go func() {
		c.ended <- c.run(ctx, client, func(ctx context.Context) error {
			close(c.leads)
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	return c
}

// A server that cannot renew its Lease stops before another leads, and says that it does not lead; one that ends hands it on at once.
func TestElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tracker := fake.NewSimpleClientset().Tracker()
		a := newCandidate(t, "10.0.0.1:6443", tracker)
		<-a.leads
		b := newCandidate(t, "10.0.0.1:6443", tracker) // it takes the same address for its own
		time.Sleep(time.Hour)
		if !a.holds() || b.holds() {
			t.Fatalf("after an hour the first holds it: %v, the second: %v", a.holds(), b.holds())
		}
		if leader, err := b.elsewhere(); err != nil || leader != "10.0.0.1:6443" {
			t.Errorf("the second takes %q for the one that leads, %v", leader, err)
		}
		if leader, err := a.elsewhere(); err == nil {
			t.Errorf("the first takes %q for another that leads", leader)
		}

		a.cut.Store(true)
		for lost := time.Duration(0); ; time.Sleep(100 * time.Millisecond) {
			select {
			case <-b.leads:
				if a.holds() || lost == 0 {
					t.Fatal("two lead at a time")
				}
			default:
				if !a.holds() && lost == 0 {
					lost = 1
				}
				continue
			}
			break
		}
		if err := <-a.ended; !errors.Is(err, errNotLeading) {
			t.Errorf("the first ended with %v", err)
		}

		c := newCandidate(t, "10.0.0.3:6443", tracker)
		synctest.Wait()
		b.end()
		at := time.Now()
		<-c.leads
		if b.holds() {
			t.Error("two lead at a time")
		}
		if waited := time.Since(at); waited > leaseDuration { // of the bubble's own clock
			t.Errorf("it was handed on after %s", waited)
		}
		if err := <-b.ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the second ended with %v", err)
		}
		c.end()
		<-c.ended
	})
}

// What a stopped process says when it goes on reaches nobody.
func TestFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newElection("10.0.0.1:6443", slog.New(slog.DiscardHandler))
		sent := 0
		f := fenced{transport(func() { sent++ }), e.holds}
		if err := f.Publish("t", nil); !errors.Is(err, errNotLeading) || sent != 0 {
			t.Errorf("before it leads: %v", err)
		}
		e.leads.Store(true)
		e.until.Store(int64(time.Since(e.started) + renewDeadline))
		if err := f.Publish("t", nil); err != nil || sent != 1 {
			t.Errorf("while it leads: %v", err)
		}
		time.Sleep(renewDeadline)
		if err := f.Publish("t", nil); !errors.Is(err, errNotLeading) || sent != 1 {
			t.Errorf("after a pause: %v", err)
		}
	})
}

// transport counts what is published.
type transport func()

func (f transport) Receive(func(string, []byte))  {}
func (f transport) Publish(string, []byte) error  { f(); return nil }
func (f transport) Run(ctx context.Context) error { return nil }
