package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"bramble.dev/server/store"
)

// Cluster says which cluster's objects lie below a prefix. It is written once, by the first server or by a restore.
type Cluster struct {
	// Incarnation tells these objects from any others, and from themselves after a restore.
	Incarnation string `json:"incarnation"`
	// Authority is the hash of the certificate of the cluster's authority (auth.PKI.CAHash): servers of one cluster have the same keys.
	Authority string `json:"authority"`
	// Restoring says that the objects are not all there yet.
	Restoring bool `json:"restoring,omitempty"`
}

// clusterKey is below the prefix. Objects of a group bramble.dev would lie below its name and a slash.
const clusterKey = "/bramble.dev"

// ErrRestoring says that a restore is at work below a prefix, or was cut short.
var ErrRestoring = errors.New("a backup is being restored")

func newCluster(authority string) Cluster {
	return Cluster{Incarnation: store.NewIncarnation(), Authority: authority}
}

// Find says whose objects lie below a prefix; ok is false when no cluster has been there. It waits for an etcd that does not answer.
func Find(ctx context.Context, o Options) (found Cluster, ok bool, err error) {
	o = o.withDefaults()
	c, err := o.dial()
	if err != nil {
		return found, false, err
	}
	defer c.Close()
	err = o.patiently(ctx, func(ctx context.Context) error {
		found, _, ok, err = o.find(ctx, c.Client)
		return err
	})
	return found, ok, err
}

func (o Options) find(ctx context.Context, c *clientv3.Client) (found Cluster, revision int64, ok bool, err error) {
	got, err := c.Get(ctx, o.Prefix+clusterKey)
	if err != nil {
		return found, 0, false, err
	}
	if len(got.Kvs) == 0 {
		return found, got.Header.Revision, false, nil
	}
	if err := json.Unmarshal(got.Kvs[0].Value, &found); err != nil || found.Incarnation == "" {
		return found, 0, false, refusal{fmt.Errorf("etcd: the key %s holds something else than Bramble writes: %q", o.Prefix+clusterKey, got.Kvs[0].Value)}
	}
	if found.Restoring {
		return found, 0, false, refusal{fmt.Errorf("etcd: %w: run bramble restore again if none is at work", ErrRestoring)}
	}
	return found, got.Header.Revision, true, nil
}

// ask is find for somebody who waits for a command.
func (o Options) ask(ctx context.Context, c *clientv3.Client) (found Cluster, revision int64, ok bool, err error) {
	asked, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	found, revision, ok, err = o.find(asked, c)
	if asked.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("etcd %s does not answer: %w", strings.Join(o.Servers, ","), err)
	}
	return found, revision, ok, err
}

// found writes which cluster's objects these are, unless that is known: of several that try, one succeeds.
func (o Options) found(ctx context.Context, c *clientv3.Client, cluster Cluster) error {
	key := o.Prefix + clusterKey
	_, err := c.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).Then(clientv3.OpPut(key, cluster.encode())).Commit()
	return err
}

func (c Cluster) encode() string {
	b, _ := json.Marshal(c) // strings and a bool
	return string(b)
}

// join finds the cluster, or founds it.
func (o Options) join(ctx context.Context, c *clientv3.Client, authority string) (Cluster, error) {
	found, _, ok, err := o.find(ctx, c)
	if err == nil && !ok {
		if err = o.found(ctx, c, newCluster(authority)); err == nil {
			found, _, _, err = o.find(ctx, c)
		}
	}
	if err == nil && found.Authority != authority {
		err = refusal{fmt.Errorf("etcd holds, below %s, the objects of another cluster: its authority is %s and that of this server's keys %s: give this one another --etcd-prefix, or the keys of a server of that cluster",
			o.Prefix, found.Authority, authority)}
	}
	return found, err
}
