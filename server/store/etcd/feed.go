package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"bramble.dev/server/store"
)

// page is how many objects one answer brings when everything is read.
const page = 500

// load copies everything at one revision.
func (s *Store) load(ctx context.Context) error {
	var all []store.KeyValue
	revision, err := s.opts.each(ctx, s.client.Client, 0, func(kv *mvccpb.KeyValue) error {
		all = append(all, store.KeyValue{Key: s.opts.inside(kv.Key), Revision: kv.ModRevision, Value: kv.Value})
		return nil
	})
	if err != nil {
		return err
	}
	if have := s.Revision(); revision < have {
		err := fmt.Errorf("etcd is at revision %d, and was at %d", revision, have)
		s.fail(err)
		return refusal{err}
	}
	s.Replace(all, revision)
	return nil
}

// each visits what lies below the prefix at one revision (0: the latest), which it returns, in the order of keys.
func (o Options) each(ctx context.Context, c *clientv3.Client, at int64, visit func(*mvccpb.KeyValue) error) (revision int64, err error) {
	revision = at
	from, end := o.Prefix+"/", clientv3.GetPrefixRangeEnd(o.Prefix+"/")
	for {
		got, err := c.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(revision))
		if err != nil {
			return 0, err
		}
		if revision == 0 {
			revision = got.Header.Revision
		}
		for _, kv := range got.Kvs {
			if string(kv.Key) == o.Prefix+clusterKey {
				continue
			}
			if err := visit(kv); err != nil {
				return 0, err
			}
		}
		if !got.More {
			return revision, nil
		}
		from = string(got.Kvs[len(got.Kvs)-1].Key) + "\x00"
	}
}

// inside is a key as this process has it, where all begin as upstream's do by default.
func (o Options) inside(key []byte) string {
	return DefaultPrefix + strings.TrimPrefix(string(key), o.Prefix)
}

// outside is the key in etcd.
func (o Options) outside(key string) string { return o.Prefix + strings.TrimPrefix(key, DefaultPrefix) }

// quiet is for how long nothing is said of a watch that ends again and again.
const quiet = time.Minute

// feed keeps the copy current until Close.
func (s *Store) feed() {
	for told := (time.Time{}); s.watching.Err() == nil; {
		err := s.watch()
		if s.watching.Err() != nil {
			return
		}
		if time.Since(told) > quiet {
			told = time.Now()
			s.opts.Logger.Warn("the watch on etcd has ended and is begun again", "err", err)
		}
		if errors.Is(err, rpctypes.ErrCompacted) { // it was away for longer than etcd remembers
			if err := s.opts.patiently(s.watching, s.load); err != nil {
				continue
			}
		}
		select {
		case <-s.watching.Done():
		case <-time.After(pause / 10):
		}
	}
}

// watch tells the copy what happens in etcd after what it knows. A broken connection is made anew by the client, with whichever member
// answers.
func (s *Store) watch() error {
	ctx, cancel := context.WithCancel(s.watching)
	defer cancel()
	if _, err := s.revision(ctx); err != nil { // an etcd that has gone back would keep quiet until it is as far again
		return err
	}
	for got := range s.client.Watch(ctx, s.opts.Prefix+"/", clientv3.WithPrefix(), clientv3.WithRev(s.Revision()+1), clientv3.WithProgressNotify()) {
		if err := got.Err(); err != nil {
			return err
		}
		if got.IsProgressNotify() {
			s.Apply(nil, got.Header.Revision)
			continue
		}
		if len(got.Events) == 0 {
			continue
		}
		changes := make([]store.Event, 0, len(got.Events))
		for _, e := range got.Events {
			if string(e.Kv.Key) == s.opts.Prefix+clusterKey {
				continue
			}
			change := store.Event{Key: s.opts.inside(e.Kv.Key), Revision: e.Kv.ModRevision}
			if e.Type == clientv3.EventTypePut {
				change.Value = e.Kv.Value
			}
			changes = append(changes, change)
		}
		s.Apply(changes, got.Events[len(got.Events)-1].Kv.ModRevision)
	}
	return errors.New("it was closed")
}
