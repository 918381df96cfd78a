package server

import (
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"bramble.dev/link"
	"bramble.dev/server/api"
	"bramble.dev/server/auth"
	"bramble.dev/server/cache"
	"bramble.dev/server/controllers"
	"bramble.dev/server/dispatch"
	"bramble.dev/server/scheduler"
)

// systemAccount is the service account under which upstream runs a controller. RBAC gives each its own rights.
func systemAccount(name string) string { return "system:serviceaccount:kube-system:" + name }

func controllerDependencies(c Config, pki *auth.PKI, caches *cache.Set, s *api.Server, d *dispatch.Dispatcher) controllers.Dependencies {
	return controllers.Dependencies{
		Client: func(name string) kubernetes.Interface {
			return kubernetes.NewForConfigOrDie(s.ClientConfig(systemAccount(name)))
		},
		Metadata: func(name string) metadata.Interface {
			return metadata.NewForConfigOrDie(s.ClientConfig(systemAccount(name)))
		},
		Elsewhere: s.Elsewhere, Caches: caches, Presence: d, PodCIDR: c.PodCIDR, CACertPEM: pki.CACertPEM(), SignToken: s.SignToken, SignRequest: pki.SignRequest, LoadBalancers: c.LoadBalancers,
		Logger: c.Logger.With("part", "controllers"),
	}
}

func schedulerConfig(c Config, caches *cache.Set, cluster link.ClusterConfig, client func(user string, groups ...string) kubernetes.Interface) scheduler.Config {
	return scheduler.Config{Client: client("system:kube-scheduler"), Caches: caches, Cluster: cluster, Logger: c.Logger.With("part", "scheduler")}
}
