// Package controllers runs all controllers of a server. Each has a folder of
// its own and the same shape (package loop): inputs named, a reconcile of one
// key, and a pure plan where the logic is hard.
//
// Invariant: each controller writes through the API under upstream's identity
// for it, with no more rights than that has, and reads from the caches.
//
//	err := controllers.Run(ctx, controllers.Dependencies{Client: client, Caches: caches, ...})
package controllers

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/certificates"
	"bramble.dev/server/controllers/clusterrole"
	"bramble.dev/server/controllers/cronjob"
	"bramble.dev/server/controllers/daemonset"
	"bramble.dev/server/controllers/deployment"
	"bramble.dev/server/controllers/disruption"
	"bramble.dev/server/controllers/endpoints"
	"bramble.dev/server/controllers/endpointslice"
	"bramble.dev/server/controllers/endpointslicemirroring"
	"bramble.dev/server/controllers/ephemeral"
	"bramble.dev/server/controllers/events"
	"bramble.dev/server/controllers/garbage"
	"bramble.dev/server/controllers/ingress"
	"bramble.dev/server/controllers/job"
	"bramble.dev/server/controllers/loadbalancer"
	"bramble.dev/server/controllers/namespace"
	"bramble.dev/server/controllers/nodeipam"
	"bramble.dev/server/controllers/nodelifecycle"
	"bramble.dev/server/controllers/nodes"
	"bramble.dev/server/controllers/persistentvolume"
	"bramble.dev/server/controllers/podautoscaler"
	"bramble.dev/server/controllers/podgc"
	"bramble.dev/server/controllers/protection"
	"bramble.dev/server/controllers/replicaset"
	"bramble.dev/server/controllers/replicationcontroller"
	"bramble.dev/server/controllers/resourcequota"
	"bramble.dev/server/controllers/rootca"
	"bramble.dev/server/controllers/serviceaccount"
	"bramble.dev/server/controllers/serviceaccounttoken"
	"bramble.dev/server/controllers/servicecidr"
	"bramble.dev/server/controllers/statefulset"
	"bramble.dev/server/controllers/storagemigration"
	"bramble.dev/server/controllers/tainteviction"
	"bramble.dev/server/controllers/tokencleaner"
	"bramble.dev/server/controllers/trustbundle"
	"bramble.dev/server/controllers/ttlafterfinished"
)

// Dependencies is what the controllers share.
type Dependencies struct {
	// Client and Metadata give a client that acts as the service account of this
	// name in kube-system.
	Client   func(name string) kubernetes.Interface
	Metadata func(name string) metadata.Interface
	Caches   *cache.Set
	// Elsewhere gives the group versions that other servers answer.
	Elsewhere func() map[schema.GroupVersion]bool
	Presence  nodes.Presence
	PodCIDR   netip.Prefix
	CACertPEM []byte
	// SignToken makes a token that is good for as long as its Secret and its account are there.
	SignToken func(context.Context, *corev1.ServiceAccount, *corev1.Secret) (string, error)
	// SignRequest signs a certificate request with the cluster's authority.
	SignRequest certificates.Sign
	// LoadBalancers is what Services of type LoadBalancer get their addresses from; without any, the nodes' own are told.
	LoadBalancers loadbalancer.Pool
	Logger        *slog.Logger
}

// runner is a controller; Run ends with ctx and its goroutines.
type runner interface{ Run(ctx context.Context) }

// Run runs all controllers and returns when ctx is done and they have ended.
func Run(ctx context.Context, d Dependencies) error {
	recorder := events.New()
	defer recorder.Close()
	var wg sync.WaitGroup
	for _, c := range all(d, recorder) {
		wg.Go(func() { c.Run(ctx) })
	}
	wg.Wait()
	return ctx.Err()
}

// kit makes one controller's clients, which are shared by its reader of events.
type kit struct {
	Dependencies
	recorder *events.Recorder
}

func (k kit) events(component string, c kubernetes.Interface) record.EventRecorder {
	return k.recorder.For(component, c)
}

// all lists the controllers, in the order of the kinds that they keep.
func all(d Dependencies, recorder *events.Recorder) []runner {
	k := kit{d, recorder}
	return slices.Concat(k.workloads(), k.jobs(), k.services(), k.storage(), k.nodes(), k.house())
}

func (k kit) workloads() []runner {
	s, log := k.Caches, k.Logger
	deployments, sets, rcs := k.Client("deployment-controller"), k.Client("replicaset-controller"), k.Client("replication-controller")
	daemons, stateful := k.Client("daemon-set-controller"), k.Client("statefulset-controller")
	sizes := k.Client("horizontal-pod-autoscaler")
	return []runner{
		deployment.New(deployment.Inputs{
			Client: deployments, Events: k.events("deployment-controller", deployments),
			Deployments: s.Deployments(), ReplicaSets: s.ReplicaSets(), Pods: s.Pods(), Log: log,
		}),
		replicaset.New(replicaset.Inputs{
			Client: sets, Events: k.events("replicaset-controller", sets),
			ReplicaSets: s.ReplicaSets(), Pods: s.Pods(), Log: log,
		}),
		replicationcontroller.New(replicationcontroller.Inputs{
			Client: rcs, Events: k.events("replication-controller", rcs),
			ReplicationControllers: s.ReplicationControllers(), Pods: s.Pods(), Log: log,
		}),
		daemonset.New(daemonset.Inputs{
			Client: daemons, Events: k.events("daemonset-controller", daemons),
			DaemonSets: s.DaemonSets(), Pods: s.Pods(), Nodes: s.Nodes(), Revisions: s.ControllerRevisions(), Log: log,
		}),
		statefulset.New(statefulset.Inputs{
			Client: stateful, Events: k.events("statefulset-controller", stateful),
			StatefulSets: s.StatefulSets(), Pods: s.Pods(), Claims: s.PersistentVolumeClaims(), Revisions: s.ControllerRevisions(), Log: log,
		}),
		podautoscaler.New(podautoscaler.Inputs{
			Client: sizes, Events: k.events("horizontal-pod-autoscaler", sizes),
			Autoscalers: s.HorizontalPodAutoscalers(), Pods: s.Pods(), Log: log,
		}),
	}
}

func (k kit) jobs() []runner {
	s, log := k.Caches, k.Logger
	jobs, crons := k.Client("job-controller"), k.Client("cronjob-controller")
	return []runner{
		job.New(job.Inputs{Client: jobs, Events: k.events("job-controller", jobs), Jobs: s.Jobs(), Pods: s.Pods(), Log: log}),
		cronjob.New(cronjob.Inputs{Client: crons, Events: k.events("cronjob-controller", crons), CronJobs: s.CronJobs(), Jobs: s.Jobs(), Log: log}),
		ttlafterfinished.New(ttlafterfinished.Inputs{Client: k.Client("ttl-after-finished-controller"), Jobs: s.Jobs(), Log: log}),
	}
}

func (k kit) services() []runner {
	s, log := k.Caches, k.Logger
	slices, old, balancers := k.Client("endpointslice-controller"), k.Client("endpoint-controller"), k.Client("service-controller")
	mirror := k.Client("endpointslicemirroring-controller")
	return []runner{
		endpointslice.New(endpointslice.Inputs{
			Client: slices, Events: k.events("endpoint-slice-controller", slices),
			Services: s.Services(), Pods: s.Pods(), Nodes: s.Nodes(), EndpointSlices: s.EndpointSlices(), Log: log,
		}),
		endpoints.New(endpoints.Inputs{
			Client: old, Events: k.events("endpoint-controller", old),
			Services: s.Services(), Pods: s.Pods(), Endpoints: s.Endpoints(), Log: log,
		}),
		endpointslicemirroring.New(endpointslicemirroring.Inputs{
			Client: mirror, Events: k.events("endpoint-slice-mirroring-controller", mirror),
			Services: s.Services(), Endpoints: s.Endpoints(), EndpointSlices: s.EndpointSlices(), Log: log,
		}),
		servicecidr.New(servicecidr.Inputs{Client: k.Client("service-cidrs-controller"), Caches: s, Log: log}),
		ingress.New(ingress.Inputs{Client: k.Client("ingress-controller"), Ingresses: s.Ingresses(), Classes: s.IngressClasses(), Nodes: s.Nodes(), Pods: s.Pods(), Log: log}),
		loadbalancer.New(loadbalancer.Inputs{
			Client: balancers, Events: k.events("service-controller", balancers), Services: s.Services(), EndpointSlices: s.EndpointSlices(),
			Nodes: s.Nodes(), Pods: s.Pods(), Ingresses: s.Ingresses(), Classes: s.IngressClasses(), Pool: k.LoadBalancers, Log: log,
		}),
	}
}

func (k kit) storage() []runner {
	s, log := k.Caches, k.Logger
	binder, inline := k.Client("persistent-volume-binder"), k.Client("ephemeral-volume-controller")
	return []runner{
		persistentvolume.New(persistentvolume.Inputs{
			Client: binder, Events: k.events("persistentvolume-controller", binder), Claims: s.PersistentVolumeClaims(), Volumes: s.PersistentVolumes(),
			Classes: s.StorageClasses(), Nodes: s.Nodes(), Pods: s.Pods(), Log: log,
		}),
		ephemeral.New(ephemeral.Inputs{
			Client: inline, Events: k.events("ephemeral_volume", inline), Pods: s.Pods(), Claims: s.PersistentVolumeClaims(), Log: log,
		}),
		protection.NewClaims(protection.ClaimInputs{Client: k.Client("pvc-protection-controller"), Claims: s.PersistentVolumeClaims(), Pods: s.Pods(), Log: log}),
		protection.NewAttributes(protection.AttributeInputs{
			Client: k.Client("volumeattributesclass-protection-controller"), Classes: cache.Of[storagev1.VolumeAttributesClass](s, "storage.k8s.io", "volumeattributesclasses"),
			Claims: s.PersistentVolumeClaims(), Volumes: s.PersistentVolumes(), Log: log,
		}),
		protection.NewVolumes(protection.VolumeInputs{Client: k.Client("pv-protection-controller"), Volumes: s.PersistentVolumes(), Log: log}),
	}
}

func (k kit) nodes() []runner {
	s, log := k.Caches, k.Logger
	node := k.Client("node-controller")
	recorder := k.events("node-controller", node)
	budgets := k.Client("disruption-controller")
	return []runner{
		nodeipam.New(nodeipam.Inputs{Client: node, Events: recorder, Nodes: s.Nodes(), PodCIDR: k.PodCIDR, Log: log}),
		nodelifecycle.New(nodelifecycle.Inputs{Client: node, Events: recorder, Nodes: s.Nodes(), Pods: s.Pods(), Presence: k.Presence, Log: log}),
		tainteviction.New(tainteviction.Inputs{Client: node, Events: k.events("taint-eviction-controller", node), Nodes: s.Nodes(), Pods: s.Pods(), Presence: k.Presence, Log: log}),
		disruption.New(disruption.Inputs{
			Client: budgets, Events: k.events("controllermanager", budgets), Budgets: s.PodDisruptionBudgets(), Pods: s.Pods(),
			ReplicationControllers: s.ReplicationControllers(), ReplicaSets: s.ReplicaSets(), Deployments: s.Deployments(), StatefulSets: s.StatefulSets(), Log: log,
		}),
		podgc.New(podgc.Inputs{Client: k.Client("pod-garbage-collector"), Nodes: s.Nodes(), Pods: s.Pods(), Presence: k.Presence, Log: log}),
	}
}

// house is what every cluster needs, whatever runs on it.
func (k kit) house() []runner {
	s, log := k.Caches, k.Logger
	collector := k.Client("generic-garbage-collector")
	return []runner{
		namespace.New(namespace.Inputs{
			Client: k.Client("namespace-controller"), Metadata: k.Metadata("namespace-controller"),
			Namespaces: s.Namespaces(), Pods: s.Pods(), Log: log,
		}),
		garbage.New(garbage.Inputs{
			Metadata: k.Metadata("generic-garbage-collector"), Discovery: collector.Discovery(),
			Events: k.events("garbage-collector-controller", collector), Source: s.Source(), Prefix: s.Prefix, Elsewhere: k.Elsewhere, Log: log,
		}),
		serviceaccount.New(serviceaccount.Inputs{
			Client: k.Client("service-account-controller"), Namespaces: s.Namespaces(), ServiceAccounts: s.ServiceAccounts(), Log: log,
		}),
		serviceaccounttoken.New(serviceaccounttoken.Inputs{
			Client: k.Client("serviceaccount-token-controller"), Caches: s, ServiceAccounts: s.ServiceAccounts(), Sign: k.SignToken, CACertPEM: k.CACertPEM, Log: log,
		}),
		rootca.New(rootca.Inputs{
			Client: k.Client("root-ca-cert-publisher"), Namespaces: s.Namespaces(), ConfigMaps: cache.Named[corev1.ConfigMap](s, "", "configmaps", rootca.Name), CACertPEM: k.CACertPEM, Log: log,
		}),
		resourcequota.New(resourcequota.Inputs{
			Client: k.Client("resourcequota-controller"), ResourceQuotas: s.ResourceQuotas(), Pods: s.Pods(), Services: s.Services(),
			Claims: s.PersistentVolumeClaims(), Counts: s.Counts, Log: log,
		}),
		trustbundle.New(trustbundle.Inputs{Client: k.Client("kube-apiserver-serving-clustertrustbundle-publisher"), Caches: s, CACertPEM: k.CACertPEM, Log: log}),
		certificates.New(certificates.Inputs{Client: k.Client("certificate-controller"), Caches: s, Sign: k.SignRequest, Log: log}),
		certificates.NewCleaner(certificates.CleanerInputs{Client: k.Client("podcertificaterequestcleaner"), Caches: s, Log: log}),
		tokencleaner.New(tokencleaner.Inputs{Client: k.Client("token-cleaner"), Caches: s, Log: log}),
		storagemigration.New(storagemigration.Inputs{
			Client: k.Client("storage-version-migrator-controller"), Metadata: k.Metadata("storage-version-migrator-controller"), Caches: s, Log: log,
		}),
		clusterrole.New(clusterrole.Inputs{Client: k.Client("clusterrole-aggregation-controller"), ClusterRoles: s.ClusterRoles(), Log: log}),
	}
}
