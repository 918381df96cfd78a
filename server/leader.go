package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"bramble.dev/server/api"
	"bramble.dev/server/auth"
	"bramble.dev/server/broker"
)

// Of several servers on one store, one leads: it alone runs the controllers, the scheduler and the links to the nodes. It holds a Lease.
// One that cannot renew it ends its process before another can have it.
const (
	leaderLease = "bramble-controllers"

	leaseDuration = 15 * time.Second // after which another may lead; as upstream's controllers have it
	renewDeadline = 10 * time.Second // after which this one does not any more
	retryPeriod   = 2 * time.Second
)

// errNotLeading ends a server whose Lease is lost.
var errNotLeading = errors.New("this server does not lead any more: the Lease " + metav1.NamespaceSystem + "/" + leaderLease + " could not be renewed, or was taken away")

// election is one server's part in who leads.
type election struct {
	identity string // where the API is reached, "_", and what no other process has: two servers may take the same address for theirs
	log      *slog.Logger

	leads   atomic.Bool
	until   atomic.Int64 // in nanoseconds after started: for how long what was last renewed lasts
	started time.Time    // on this process' own clock, which nobody sets

	mu     sync.Mutex
	leader string
}

// newElection makes that of a server whose API others reach at host:port.
func newElection(address string, log *slog.Logger) *election {
	return &election{identity: address + "_" + rand.Text(), log: log, started: time.Now()}
}

// holds says whether this server may act as the one that leads, at this moment. A process that was stopped for a while finds that it may
// not before it finds that its Lease is another's.
func (e *election) holds() bool {
	return e.leads.Load() && time.Since(e.started) < time.Duration(e.until.Load())
}

// elsewhere is where the API of the server that leads is reached, if that is another one.
func (e *election) elsewhere() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.leader == "" || e.leader == e.identity {
		return "", errors.New("no server leads at the moment: try again")
	}
	address, _, _ := strings.Cut(e.leader, "_")
	return address, nil
}

// dial asks the server that leads for connections through its links.
func (e *election) dial(pki *auth.PKI) func(ctx context.Context, node, address string) (net.Conn, error) {
	return func(ctx context.Context, node, address string) (net.Conn, error) {
		leader, err := e.elsewhere()
		if err != nil {
			return nil, err
		}
		return api.DialThrough(ctx, pki, leader, node, address)
	}
}

// run waits until this server leads, and leads until ctx is done. That it leads no more is an error.
func (e *election) run(ctx context.Context, client kubernetes.Interface, lead func(context.Context) error) error {
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, metav1.NamespaceSystem, leaderLease, client.CoreV1(), client.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: e.identity})
	if err != nil {
		return fmt.Errorf("the Lease of the server that leads: %w", err)
	}
	// The Lease is given back only when everything that it stands for has ended.
	elected, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	leading := make(chan error, 1)
	var turn sync.Mutex // of who is first: the end, or the beginning
	var began, over bool
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: leaderLease, Lock: renewals{lock, e}, LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(lost context.Context) {
				turn.Lock()
				began = !over
				turn.Unlock()
				if !began {
					return
				}
				e.leads.Store(true)
				e.log.Info("this server leads", "identity", e.identity)
				leading <- e.lead(ctx, lost, lead)
			},
			OnStoppedLeading: func() { e.leads.Store(false) },
			OnNewLeader: func(identity string) {
				e.mu.Lock()
				defer e.mu.Unlock()
				if e.leader = identity; identity != e.identity {
					e.log.Info("another server leads", "identity", identity)
				}
			},
		},
	})
	if err != nil {
		return fmt.Errorf("the Lease of the server that leads: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		elector.Run(elected)
	}()
	select {
	case err = <-leading:
	case <-ctx.Done():
		turn.Lock()
		over = true
		wait := began
		turn.Unlock()
		if wait {
			err = <-leading
		}
	}
	release()
	<-ended
	return err
}

// lead ends with ctx, or with an error when the Lease is lost.
func (e *election) lead(ctx, lost context.Context, lead func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(lost, func() { cancel(errNotLeading) })()
	err := lead(ctx)
	if errors.Is(context.Cause(ctx), errNotLeading) {
		return errNotLeading
	}
	return err
}

// renewals notes for how long each renewal is good: from before it was asked for.
type renewals struct {
	resourcelock.Interface
	e *election
}

func (r renewals) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return r.note(func() error { return r.Interface.Create(ctx, record) })
}

func (r renewals) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return r.note(func() error { return r.Interface.Update(ctx, record) })
}

func (r renewals) note(write func() error) error {
	at := time.Since(r.e.started)
	err := write()
	if err == nil {
		r.e.until.Store(int64(at + renewDeadline))
	}
	return err
}

// fenced lets nothing out to the nodes of which a server that leads by now might not know: above all no sign of life, after which a node
// runs what must not run twice.
type fenced struct {
	broker.Transport
	holds func() bool
}

func (f fenced) Publish(topic string, payload []byte) error {
	if !f.holds() {
		return errNotLeading
	}
	return f.Transport.Publish(topic, payload)
}
