package clients

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// candidate takes part in an election until it is stopped.
type candidate struct {
	stop  context.CancelFunc
	leads chan struct{} // closed when it leads
	ended chan struct{} // closed when it takes part no longer
}

// leading is who leads now; two at once are a fault.
type leading struct {
	sync.Mutex
	who map[string]bool
}

func (l *leading) candidate(t *testing.T, s *server, ns, name string, release bool) *candidate {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	c := &candidate{stop: stop, leads: make(chan struct{}), ended: make(chan struct{})}
	lock := must(resourcelock.New(resourcelock.LeasesResourceLock, ns, "job", nil, s.client(t).CoordinationV1(), resourcelock.ResourceLockConfig{Identity: name}))(t)
	elector := must(leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: 3 * time.Second, RenewDeadline: 2 * time.Second, RetryPeriod: 200 * time.Millisecond, ReleaseOnCancel: release,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) {
				l.Lock()
				defer l.Unlock()
				l.who[name] = true
				if len(l.who) > 1 {
					t.Errorf("two lead: %v", l.who)
				}
				close(c.leads)
			},
			OnStoppedLeading: func() { l.Lock(); defer l.Unlock(); delete(l.who, name) },
		},
	}))(t)
	go func() {
		defer close(c.ended)
		elector.Run(ctx)
	}()
	t.Cleanup(func() { stop(); <-c.ended })
	return c
}

func within(t *testing.T, limit time.Duration, what string, happened <-chan struct{}) time.Duration {
	t.Helper()
	began := time.Now()
	select {
	case <-happened:
	case <-time.After(limit):
		t.Fatalf("%s: not within %v", what, limit)
	}
	return time.Since(began)
}

// TestLeaderElection: a Lease between candidates. One that lets go is followed at once; one that vanishes, when its
// lease is over; and a leader goes on leading over a restart of the server that is shorter than its lease.
func TestLeaderElection(t *testing.T) {
	s := start(t)
	ns := s.namespace(t, "election")
	l := &leading{who: map[string]bool{}}
	a := l.candidate(t, s, ns, "a", true)
	within(t, 5*time.Second, "a leads", a.leads)
	b := l.candidate(t, s, ns, "b", false)
	select {
	case <-b.leads:
		t.Fatal("b leads beside a")
	case <-time.After(time.Second):
	}
	a.stop()
	if took := within(t, 2*time.Second, "b leads after a let go", b.leads); took > 1500*time.Millisecond {
		t.Errorf("it took %v", took)
	}

	s.stop()
	s.run()
	eventually(t, 5*time.Second, "the leader has renewed its Lease at the restarted server", func(ctx context.Context) error {
		lease, err := s.client(t).CoordinationV1().Leases(ns).Get(ctx, "job", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if *lease.Spec.HolderIdentity != "b" || *lease.Spec.LeaseTransitions != 1 || time.Since(lease.Spec.RenewTime.Time) > time.Second {
			return fmt.Errorf("%+v", lease.Spec)
		}
		return nil
	})

	c := l.candidate(t, s, ns, "c", true)
	b.stop() // and says nothing
	<-b.ended
	took := within(t, 10*time.Second, "c leads when b's lease is over", c.leads)
	if took < 2*time.Second {
		t.Errorf("c leads %v after b vanished, whose lease is of 3 s", took)
	}
}
