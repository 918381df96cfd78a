package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"bramble.dev/internal/durable"
	"bramble.dev/server/auth"
	"bramble.dev/server/store"
	"bramble.dev/server/store/etcd"
)

// Servers that share their objects share the keys of the cluster too: each has a copy of them in its own folder. In etcd they would lie
// beside the Secrets that one of them encrypts.
//
// A server with the keys of a cluster and without its objects is believed by all boards, and tells them that nothing is to run. So none
// starts like that: with keys but no objects in etcd, or without etcd where the objects of its keys are there.

// sharedMark says in a server's folder that the objects of its cluster are in etcd, and of which incarnation they were last.
func sharedMark(dataDir string) string { return filepath.Join(serverDir(dataDir), "etcd") }

// openShared opens a store in etcd, and the keys.
func (c *Config) openShared(ctx context.Context) (store.Store, *auth.PKI, error) {
	if _, err := os.Stat(databasePath(c.DataDir)); err == nil {
		return nil, nil, fmt.Errorf("--store etcd: the objects of this folder's cluster are in %s: take them to etcd with `bramble backup` and `bramble restore --store etcd`, and move the file away", databasePath(c.DataDir))
	}
	o := *c.Etcd
	o.Logger = c.Logger.With("part", "store")
	found, there, err := etcd.Find(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	_, err = os.Stat(filepath.Join(pkiDir(c.DataDir), "ca.crt"))
	keys := err == nil
	switch {
	case there && !keys:
		return nil, nil, fmt.Errorf("etcd holds the cluster of the authority %s, and this server has no keys: copy to %s the folder %s from below the --data-dir of another server of that cluster (whoever has them is believed by all of the cluster)",
			found.Authority, pkiDir(c.DataDir), pkiDir(""))
	case keys && !there:
		return nil, nil, fmt.Errorf("%s has the keys of a cluster of which etcd knows nothing: its boards would be told that nothing is to run. Restore a backup with `bramble restore --store etcd`, or, for a new cluster, remove the keys", pkiDir(c.DataDir))
	}
	pki, err := auth.OpenPKI(pkiDir(c.DataDir), auth.PKIOptions{})
	if err != nil {
		return nil, nil, err
	}
	s, err := etcd.Open(ctx, o, pki.CAHash())
	if err != nil {
		return nil, nil, fmt.Errorf("open the store: %w", err)
	}
	if err := markShared(c.DataDir, s.Incarnation()); err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	return s, pki, nil
}

func markShared(dataDir, incarnation string) error {
	if had, err := os.ReadFile(sharedMark(dataDir)); err == nil && string(had) == incarnation+"\n" {
		return nil
	}
	return durable.WriteFile(sharedMark(dataDir), []byte(incarnation+"\n"), 0o644)
}

// checkNotShared refuses a folder whose cluster's objects are in etcd.
func checkNotShared(dataDir string) error {
	if _, err := os.Stat(sharedMark(dataDir)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("%w: its objects are in etcd (%s says so): start the server with --store etcd, or take them from there with `bramble backup --store etcd` and restore them into an empty folder", ErrInUse, sharedMark(dataDir))
}

// backupShared copies the objects in etcd to a database file. keys is the folder of those that will lie beside it.
func backupShared(ctx context.Context, o etcd.Options, keys, file string) error {
	pki, err := auth.OpenPKI(keys, auth.PKIOptions{})
	if err != nil {
		return err
	}
	if err := o.Check(); err != nil {
		return err
	}
	cluster, err := etcd.Backup(ctx, o, file)
	if err == nil && cluster.Authority != pki.CAHash() {
		err = fmt.Errorf("etcd holds the objects of another cluster: its authority is %s and that of this folder's keys %s", cluster.Authority, pki.CAHash())
	}
	return err
}

// restoreShared puts an unpacked backup into etcd, and its keys in their place.
func restoreShared(ctx context.Context, o etcd.Options, dataDir, unpacked string, keys func() error) error {
	if err := o.Check(); err != nil {
		return err
	}
	pki, err := auth.OpenPKI(filepath.Join(unpacked, pkiEntry), auth.PKIOptions{})
	if err != nil {
		return err
	}
	return etcd.Restore(ctx, o, filepath.Join(unpacked, databaseEntry), pki.CAHash(), func(incarnation string) error {
		if err := keys(); err != nil {
			return err
		}
		return markShared(dataDir, incarnation)
	})
}
