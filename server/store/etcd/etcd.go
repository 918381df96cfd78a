package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/utils/clock"

	"bramble.dev/server/store"
)

// compactInterval is for how long etcd remembers what was; upstream's API server asks it for the same.
const compactInterval = 5 * time.Minute

// Store is an etcd, and a copy of it in memory, of which Local, Follow, Stand and Incarnation are. It is safe for use by many goroutines.
type Store struct {
	*store.Mirror
	opts      Options
	cluster   Cluster
	client    *kubernetes.Client
	compactor interface {
		etcd3.Compactor
		Stop()
	}
	fatal sync.Once

	watching context.Context // of the watch that feeds the copy; who asks for its progress must show the same
	stop     context.CancelFunc
	ending   sync.WaitGroup
}

var _ store.Store = (*Store)(nil)

// Open connects to etcd, of which the cluster with this authority (auth.PKI.CAHash) has the prefix or takes it now, and copies what is
// there. It waits for an etcd that does not answer, until ctx is done.
func Open(ctx context.Context, o Options, authority string) (*Store, error) {
	o = o.withDefaults()
	client, err := o.dial()
	if err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &Store{opts: o, client: client, watching: clientv3.WithRequireLeader(life), stop: stop}
	err = o.patiently(ctx, func(ctx context.Context) (err error) {
		s.cluster, err = o.join(ctx, client.Client, authority)
		return err
	})
	if err == nil {
		s.Mirror = store.NewMirror(s.cluster.Incarnation, store.Options{Logger: o.Logger, BookmarkInterval: o.BookmarkInterval})
		err = o.patiently(ctx, s.load)
	}
	if err != nil {
		stop()
		if s.Mirror != nil {
			s.Mirror.Close()
		}
		return nil, errors.Join(err, client.Close())
	}
	s.compactor = etcd3.NewCompactor(client.Client, compactInterval, clock.RealClock{}, nil)
	s.ending.Go(s.feed)
	return s, nil
}

// Close ends watches and the connections.
func (s *Store) Close() error {
	s.stop()
	s.ending.Wait()
	s.Mirror.Close()
	s.compactor.Stop()
	if err := s.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("etcd: %w", err)
	}
	return nil
}

// Ready says why etcd cannot be asked.
func (s *Store) Ready() error {
	ctx, cancel := context.WithTimeout(s.watching, 2*time.Second)
	defer cancel()
	_, err := s.revision(ctx)
	return err
}

// revision asks etcd how far it is. A majority of its members agrees on that.
func (s *Store) revision(ctx context.Context) (int64, error) {
	cluster, revision, ok, err := s.opts.find(ctx, s.client.Client)
	if err == nil && (!ok || cluster != s.cluster) {
		err = errors.New("etcd holds other objects than when this server started")
		s.fail(err)
	}
	return revision, err
}

// fail ends the process: the copy is not one any more.
func (s *Store) fail(err error) { s.fatal.Do(func() { s.opts.Fatal(err) }) }

// freshness is how long a read waits for the copy to be as new as etcd. Upstream's watch cache waits 3 seconds.
const freshness = 10 * time.Second

// present waits until the copy has all that etcd has at this moment.
func (s *Store) present(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, freshness)
	defer cancel()
	revision, err := s.revision(ctx)
	if err != nil {
		return err
	}
	if s.Revision() >= revision {
		return nil
	}
	// What is not below the prefix raises the revision too, and the watch does not tell of it unless it is asked.
	if err := s.client.RequestProgress(s.watching); err != nil {
		return err
	}
	return s.Until(ctx, revision)
}
