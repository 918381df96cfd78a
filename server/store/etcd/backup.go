package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"bramble.dev/server/store"
)

// ErrInUse says that a restore would lose what lies below a prefix.
var ErrInUse = errors.New("etcd holds objects below this prefix already")

// Backup writes all objects, as they were at one moment, to a new database file, and says whose they are. Servers go on meanwhile.
func Backup(ctx context.Context, o Options, path string) (Cluster, error) {
	o = o.withDefaults()
	c, err := o.dial()
	if err != nil {
		return Cluster{}, err
	}
	defer c.Close()
	cluster, revision, there, err := o.ask(ctx, c.Client)
	if err == nil && !there {
		err = fmt.Errorf("etcd has no cluster below %s", o.Prefix)
	}
	if err != nil {
		return cluster, err
	}
	ends := leases{c: c.Client, ends: map[int64]int64{}}
	return cluster, store.Write(ctx, path, revision, func(visit func(store.Object) error) error {
		_, err := o.each(ctx, c.Client, revision, func(kv *mvccpb.KeyValue) error {
			expires, err := ends.of(ctx, kv.Lease)
			if err != nil || expires < 0 {
				return err
			}
			object := split(o.inside(kv.Key))
			object.Revision, object.Expires, object.Value = kv.ModRevision, expires, kv.Value
			return visit(object)
		})
		return err
	})
}

// split finds what of a key is its resource's prefix. Two names are it where the first is a group, which has a dot, or "services", below
// which upstream has several kinds; else one.
func split(key string) store.Object {
	below := key[len(DefaultPrefix)+1:]
	first, rest, _ := strings.Cut(below, "/")
	names := 1
	if strings.Contains(first, ".") || first == "services" {
		names = 2
	}
	end := len(DefaultPrefix) + 1 + len(first) + 1
	if names == 2 {
		second, _, _ := strings.Cut(rest, "/")
		end += len(second) + 1
	}
	end = min(end, len(key))
	return store.Object{Prefix: key[:end], Key: key[end:]}
}

// leases knows when etcd's leases end, of which many objects share one.
type leases struct {
	c    *clientv3.Client
	ends map[int64]int64 // in Unix seconds; -1: it has ended
}

func (l leases) of(ctx context.Context, id int64) (int64, error) {
	if id == 0 {
		return 0, nil
	}
	if end, known := l.ends[id]; known {
		return end, nil
	}
	got, err := l.c.TimeToLive(ctx, clientv3.LeaseID(id))
	if err != nil {
		return 0, err
	}
	l.ends[id] = -1
	if got.TTL > 0 {
		l.ends[id] = time.Now().Unix() + got.TTL
	}
	return l.ends[id], nil
}

// What one transaction carries at most: etcd takes 128 operations and 1.5 MiB.
const (
	maxOps   = 100
	maxBytes = 1 << 20
)

// Restore puts the objects of a database file below a prefix that has none, as those of the cluster with this authority and under a new
// incarnation. Just before they become the cluster's, with all that takes long done, ready is called with the incarnation. One that was
// cut short is begun anew by the next.
func Restore(ctx context.Context, o Options, path, authority string, ready func(incarnation string) error) error {
	o = o.withDefaults()
	c, err := o.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	r := restore{o: o, c: c.Client, cluster: newCluster(authority)}
	if err := r.begin(ctx); err != nil {
		return err
	}
	if err := r.copy(ctx, path); err != nil {
		return err
	}
	if err := r.compare(ctx, path); err != nil {
		return err
	}
	if err := ready(r.cluster.Incarnation); err != nil {
		return err
	}
	return r.end(ctx)
}

// restore is one under way.
type restore struct {
	o       Options
	c       *clientv3.Client
	cluster Cluster

	ops   []clientv3.Op
	bytes int
	ends  map[int64]clientv3.LeaseID // by minute
}

// begin takes an empty prefix, or one that a restore has left unfinished, which it empties.
func (r *restore) begin(ctx context.Context) error {
	_, _, there, err := r.o.ask(ctx, r.c)
	unfinished := errors.Is(err, ErrRestoring)
	if err != nil && !unfinished {
		return err
	}
	if there {
		return fmt.Errorf("%w (%s): restore below another --etcd-prefix, or remove them first", ErrInUse, r.o.Prefix)
	}
	key := r.o.Prefix + clusterKey
	if unfinished {
		end := clientv3.GetPrefixRangeEnd(r.o.Prefix + "/")
		if _, err := r.c.Txn(ctx).Then(clientv3.OpDelete(r.o.Prefix+"/", clientv3.WithRange(key)), clientv3.OpDelete(key+"\x00", clientv3.WithRange(end))).Commit(); err != nil {
			return err
		}
	}
	got, err := r.c.Get(ctx, r.o.Prefix+"/", clientv3.WithPrefix(), clientv3.WithLimit(2), clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	for _, kv := range got.Kvs {
		if string(kv.Key) != key {
			return fmt.Errorf("%w (%s), and they are not Bramble's", ErrInUse, kv.Key)
		}
	}
	r.cluster.Restoring = true
	_, err = r.c.Put(ctx, key, r.cluster.encode())
	return err
}

func (r *restore) copy(ctx context.Context, path string) error {
	r.ends = map[int64]clientv3.LeaseID{}
	err := store.Read(ctx, path, func(o store.Object) error {
		options, ended, err := r.expiry(ctx, o)
		if err != nil || ended {
			return err
		}
		if len(r.ops) == maxOps || r.bytes+len(o.Value) > maxBytes {
			if err := r.flush(ctx); err != nil {
				return err
			}
		}
		r.ops = append(r.ops, clientv3.OpPut(r.o.outside(o.Prefix+o.Key), string(o.Value), options...))
		r.bytes += len(o.Value)
		return nil
	})
	if err == nil {
		err = r.flush(ctx)
	}
	return err
}

// expiry gives an object that ends one of the leases of its minute.
func (r *restore) expiry(ctx context.Context, o store.Object) (options []clientv3.OpOption, ended bool, err error) {
	left := o.Expires - time.Now().Unix()
	if o.Expires == 0 || left <= 0 {
		return nil, o.Expires != 0, nil
	}
	minute := o.Expires / 60
	if r.ends[minute] == 0 {
		got, err := r.c.Grant(ctx, left+60)
		if err != nil {
			return nil, false, err
		}
		r.ends[minute] = got.ID
	}
	return []clientv3.OpOption{clientv3.WithLease(r.ends[minute])}, false, nil
}

func (r *restore) flush(ctx context.Context) error {
	if len(r.ops) == 0 {
		return nil
	}
	_, err := r.c.Txn(ctx).Then(r.ops...).Commit()
	r.ops, r.bytes = nil, 0
	return err
}

// compare reads everything back.
func (r *restore) compare(ctx context.Context, path string) error {
	there := map[string][]byte{}
	if _, err := r.o.each(ctx, r.c, 0, func(kv *mvccpb.KeyValue) error {
		there[r.o.inside(kv.Key)] = kv.Value
		return nil
	}); err != nil {
		return err
	}
	return store.Read(ctx, path, func(o store.Object) error {
		if o.Expires == 0 && !bytes.Equal(there[o.Prefix+o.Key], o.Value) {
			return fmt.Errorf("etcd does not hold %s%s as it was written", o.Prefix, o.Key)
		}
		return nil
	})
}

// end makes the objects those of the cluster, unless somebody has begun another restore.
func (r *restore) end(ctx context.Context) error {
	key, unfinished := r.o.Prefix+clusterKey, r.cluster.encode()
	r.cluster.Restoring = false
	got, err := r.c.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "=", unfinished)).Then(clientv3.OpPut(key, r.cluster.encode())).Commit()
	if err == nil && !got.Succeeded {
		err = errors.New("another restore has begun below this prefix")
	}
	return err
}
