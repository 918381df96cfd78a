package main

import (
	"fmt"

	"github.com/spf13/pflag"

	"bramble.dev/server/store/etcd"
)

// storeFlags say where a cluster's objects are. Those of etcd are named as upstream's.
type storeFlags struct {
	kind string
	o    etcd.Options
}

func (f *storeFlags) declare(flags *pflag.FlagSet) {
	flags.StringVar(&f.kind, "store", "sqlite", "where the cluster's objects are: sqlite (a file of the data folder), or etcd, which several servers share (docs/scaling.md)")
	flags.StringSliceVar(&f.o.Servers, "etcd-servers", nil, "with --store etcd: URLs of its members (https://10.0.0.1:2379,https://10.0.0.2:2379,...)")
	flags.StringVar(&f.o.CAFile, "etcd-cafile", "", "file with the certificates of who vouches for etcd's members (default: the system's)")
	flags.StringVar(&f.o.CertFile, "etcd-certfile", "", "file with the certificate that etcd's members are shown")
	flags.StringVar(&f.o.KeyFile, "etcd-keyfile", "", "file with the key of --etcd-certfile")
	flags.StringVar(&f.o.Prefix, "etcd-prefix", etcd.DefaultPrefix, "what the keys in etcd begin with; clusters that share an etcd have one each")
}

// etcd gives where the objects are that several servers share; nil: they are in the data folder.
func (f *storeFlags) etcd() (*etcd.Options, error) {
	switch f.kind {
	case "sqlite":
		if len(f.o.Servers) > 0 {
			return nil, fmt.Errorf("--etcd-servers without --store etcd: the cluster's objects would be in the data folder; say which it shall be")
		}
		return nil, nil
	case "etcd":
		return &f.o, nil
	}
	return nil, fmt.Errorf("--store %q: want sqlite or etcd", f.kind)
}
