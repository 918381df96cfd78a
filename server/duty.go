package server

import (
	"context"
	"net"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"bramble.dev/link"
	"bramble.dev/server/api"
	"bramble.dev/server/auth"
	"bramble.dev/server/broker"
	"bramble.dev/server/cache"
	"bramble.dev/server/controllers"
	"bramble.dev/server/dispatch"
	"bramble.dev/server/scheduler"
)

// duty is what one server does, whatever their number: it tells the nodes, and moves the cluster's state.
type duty struct {
	Config
	pki       *auth.PKI
	api       *api.Server
	address   net.Addr // of the API on this machine
	caches    *cache.Set
	transport broker.Transport
	cluster   link.ClusterConfig
	dialer    *nodeDialer
}

// attend does the duty in the group: until ctx is done where the server is alone (others is nil), else while it leads. The API is to
// answer until answering is done, which is later than ctx where a Lease has to be given back by way of it.
func (d duty) attend(ctx context.Context, group *errgroup.Group, others *election) (answering context.Context, err error) {
	if others == nil {
		work, err := d.begin()
		if err != nil {
			return nil, err
		}
		group.Go(func() error { return work(ctx) })
		return ctx, nil
	}
	answering, quiet := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error {
		defer quiet()
		return others.run(ctx, clientOf(d.api, serverUser, mastersGroup), func(ctx context.Context) error {
			if err := d.api.Lead(ctx); err != nil {
				return err
			}
			work, err := d.begin()
			if err != nil {
				return err
			}
			return work(ctx)
		})
	})
	return answering, nil
}

// begin makes the parts, and gives what runs them until ctx is done. From here on the dialer goes through this server's links.
func (d duty) begin() (run func(ctx context.Context) error, err error) {
	dispatcher, err := newDispatcher(dispatch.Config{
		Caches: d.caches, Client: clientOf(d.api, dispatchUser, mastersGroup), Transport: d.transport, Cluster: d.cluster, Logger: d.Logger.With("part", "dispatch"),
	}, d.pki, d.address)
	if err != nil {
		return nil, err
	}
	d.dialer.dispatcher.Store(dispatcher)
	return func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return dispatcher.Run(ctx) })
		group.Go(func() error { return controllers.Run(ctx, d.controllers(dispatcher)) })
		group.Go(func() error { return scheduler.Run(ctx, d.scheduler()) })
		return group.Wait()
	}, nil
}

func (d duty) controllers(presence *dispatch.Dispatcher) controllers.Dependencies {
	return controllers.Dependencies{
		Client: func(name string) kubernetes.Interface { return clientOf(d.api, systemAccount(name)) },
		Metadata: func(name string) metadata.Interface {
			return metadata.NewForConfigOrDie(d.api.ClientConfig(systemAccount(name)))
		},
		Elsewhere: d.api.Elsewhere, Caches: d.caches, Presence: presence, PodCIDR: d.PodCIDR, CACertPEM: d.pki.CACertPEM(),
		SignToken: d.api.SignToken, SignRequest: d.pki.SignRequest, LoadBalancers: d.LoadBalancers, Logger: d.Logger.With("part", "controllers"),
	}
}

func (d duty) scheduler() scheduler.Config {
	return scheduler.Config{Client: clientOf(d.api, "system:kube-scheduler"), Caches: d.caches, Cluster: d.cluster, Logger: d.Logger.With("part", "scheduler")}
}

// clientOf is a client in this process, with a user's rights.
func clientOf(s *api.Server, user string, groups ...string) kubernetes.Interface {
	return kubernetes.NewForConfigOrDie(s.ClientConfig(user, groups...))
}

// systemAccount is the service account under which upstream runs a controller. RBAC gives each its own rights.
func systemAccount(name string) string { return "system:serviceaccount:kube-system:" + name }
