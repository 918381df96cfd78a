package cache

import (
	"context"
	"log/slog"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// Set makes each cache when it is first asked for, so that nobody pays for a
// resource that nobody reads.
type Set struct {
	source Source
	prefix func(schema.GroupResource) string
	log    *slog.Logger

	ctx    context.Context // of the goroutines that feed the caches; ended by Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	caches map[what]any
}

// NewSet makes a set without any cache. prefixOf names where the source keeps a resource.
func NewSet(source Source, prefixOf func(schema.GroupResource) string, log *slog.Logger) *Set {
	ctx, cancel := context.WithCancel(context.Background())
	return &Set{source: source, prefix: prefixOf, log: log, ctx: ctx, cancel: cancel, caches: map[what]any{}}
}

// Close stops all caches and returns when nothing of them runs any more.
func (s *Set) Close() {
	s.cancel()
	s.wg.Wait()
}

// Source is what feeds the set, for readers that need no decoded objects.
func (s *Set) Source() Source { return s.source }

// Prefix is where the source keeps a resource.
func (s *Set) Prefix(gr schema.GroupResource) string { return s.prefix(gr) }

// Of returns the set's cache of a resource. All callers must agree on its type.
// The cache is complete when it is returned, unless the source failed.
func Of[T any](s *Set, group, resource string) *Cache[T] {
	return open[T](s, group, resource, "")
}

// Named returns a cache of the objects of one name in all namespaces, for who
// would otherwise keep thousands of others for them.
func Named[T any](s *Set, group, resource, name string) *Cache[T] {
	return open[T](s, group, resource, name)
}

// what one of the set's caches holds.
type what struct {
	schema.GroupResource
	name    string
	counted bool
}

func open[T any](s *Set, group, resource, name string) *Cache[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := what{GroupResource: schema.GroupResource{Group: group, Resource: resource}, name: name}
	if c, ok := s.caches[key]; ok {
		return c.(*Cache[T])
	}
	c := New[T](s.source, s.prefix(key.GroupResource), s.log)
	if name != "" {
		c.keep = func(key string) bool { return strings.HasSuffix(key, "/"+name) }
	}
	s.caches[key] = c
	f, err := c.start()
	s.wg.Go(func() { c.run(s.ctx, f, err) })
	return c
}

// Counts returns the set's counter of a resource.
func (s *Set) Counts(gr schema.GroupResource) *Counter {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := what{GroupResource: gr, counted: true}
	if c, ok := s.caches[key]; ok {
		return c.(*Counter)
	}
	c := newCounter(s.source, s.prefix(gr), s.log)
	s.caches[key] = c
	f, err := c.start()
	s.wg.Go(func() { run(s.ctx, s.log, c.start, c.follow, f, err) })
	return c
}

// OnKey calls handler with the key of every object of a resource that is there, and of each that changes or goes from then on,
// until stop is called: for a resource of which nobody needs all objects. value is for Decode, nil of one that is gone. An empty
// key says that others may have changed or gone too, because the source has lost its place. A handler enqueues and returns.
func (s *Set) OnKey(gr schema.GroupResource, handler func(key types.NamespacedName, value []byte)) (stop func()) {
	prefix := s.prefix(gr)
	tell := func(key string, value []byte) {
		namespace, name := nameOf(prefix, key)
		handler(types.NamespacedName{Namespace: namespace, Name: name}, value)
	}
	start := func() (Follower, error) {
		f, err := s.source.Follow(prefix)
		if err != nil {
			return nil, err
		}
		handler(types.NamespacedName{}, nil)
		for _, kv := range f.Snapshot() {
			tell(kv.Key, kv.Value)
		}
		return f, nil
	}
	follow := func(ctx context.Context, f Follower) error {
		for {
			events, err := f.Next(ctx)
			if err != nil {
				return err
			}
			for _, e := range events {
				tell(e.Key, e.Value)
			}
		}
	}
	ctx, stop := context.WithCancel(s.ctx)
	f, err := start()
	s.wg.Go(func() { run(ctx, s.log.With("prefix", prefix), start, follow, f, err) })
	return stop
}

func (s *Set) Pods() *Cache[corev1.Pod]             { return Of[corev1.Pod](s, "", "pods") }
func (s *Set) Nodes() *Cache[corev1.Node]           { return Of[corev1.Node](s, "", "nodes") }
func (s *Set) Services() *Cache[corev1.Service]     { return Of[corev1.Service](s, "", "services") }
func (s *Set) Endpoints() *Cache[corev1.Endpoints]  { return Of[corev1.Endpoints](s, "", "endpoints") }
func (s *Set) ConfigMaps() *Cache[corev1.ConfigMap] { return Of[corev1.ConfigMap](s, "", "configmaps") }
func (s *Set) Secrets() *Cache[corev1.Secret]       { return Of[corev1.Secret](s, "", "secrets") }
func (s *Set) Namespaces() *Cache[corev1.Namespace] { return Of[corev1.Namespace](s, "", "namespaces") }
func (s *Set) ServiceAccounts() *Cache[corev1.ServiceAccount] {
	return Of[corev1.ServiceAccount](s, "", "serviceaccounts")
}
func (s *Set) PersistentVolumes() *Cache[corev1.PersistentVolume] {
	return Of[corev1.PersistentVolume](s, "", "persistentvolumes")
}
func (s *Set) PersistentVolumeClaims() *Cache[corev1.PersistentVolumeClaim] {
	return Of[corev1.PersistentVolumeClaim](s, "", "persistentvolumeclaims")
}
func (s *Set) ReplicationControllers() *Cache[corev1.ReplicationController] {
	return Of[corev1.ReplicationController](s, "", "replicationcontrollers")
}
func (s *Set) ResourceQuotas() *Cache[corev1.ResourceQuota] {
	return Of[corev1.ResourceQuota](s, "", "resourcequotas")
}

func (s *Set) Deployments() *Cache[appsv1.Deployment] {
	return Of[appsv1.Deployment](s, "apps", "deployments")
}
func (s *Set) ReplicaSets() *Cache[appsv1.ReplicaSet] {
	return Of[appsv1.ReplicaSet](s, "apps", "replicasets")
}
func (s *Set) DaemonSets() *Cache[appsv1.DaemonSet] {
	return Of[appsv1.DaemonSet](s, "apps", "daemonsets")
}
func (s *Set) StatefulSets() *Cache[appsv1.StatefulSet] {
	return Of[appsv1.StatefulSet](s, "apps", "statefulsets")
}
func (s *Set) ControllerRevisions() *Cache[appsv1.ControllerRevision] {
	return Of[appsv1.ControllerRevision](s, "apps", "controllerrevisions")
}

func (s *Set) Jobs() *Cache[batchv1.Job]         { return Of[batchv1.Job](s, "batch", "jobs") }
func (s *Set) CronJobs() *Cache[batchv1.CronJob] { return Of[batchv1.CronJob](s, "batch", "cronjobs") }

func (s *Set) EndpointSlices() *Cache[discoveryv1.EndpointSlice] {
	return Of[discoveryv1.EndpointSlice](s, "discovery.k8s.io", "endpointslices")
}
func (s *Set) NetworkPolicies() *Cache[networkingv1.NetworkPolicy] {
	return Of[networkingv1.NetworkPolicy](s, "networking.k8s.io", "networkpolicies")
}
func (s *Set) Ingresses() *Cache[networkingv1.Ingress] {
	return Of[networkingv1.Ingress](s, "networking.k8s.io", "ingresses")
}
func (s *Set) IngressClasses() *Cache[networkingv1.IngressClass] {
	return Of[networkingv1.IngressClass](s, "networking.k8s.io", "ingressclasses")
}
func (s *Set) PodDisruptionBudgets() *Cache[policyv1.PodDisruptionBudget] {
	return Of[policyv1.PodDisruptionBudget](s, "policy", "poddisruptionbudgets")
}
func (s *Set) ClusterRoles() *Cache[rbacv1.ClusterRole] {
	return Of[rbacv1.ClusterRole](s, "rbac.authorization.k8s.io", "clusterroles")
}
func (s *Set) StorageClasses() *Cache[storagev1.StorageClass] {
	return Of[storagev1.StorageClass](s, "storage.k8s.io", "storageclasses")
}

// ClusterTrustBundles are of the version that the store keeps.
func (s *Set) ClusterTrustBundles() *Cache[certificatesv1beta1.ClusterTrustBundle] {
	return Of[certificatesv1beta1.ClusterTrustBundle](s, "certificates.k8s.io", "clustertrustbundles")
}
func (s *Set) HorizontalPodAutoscalers() *Cache[autoscalingv2.HorizontalPodAutoscaler] {
	return Of[autoscalingv2.HorizontalPodAutoscaler](s, "autoscaling", "horizontalpodautoscalers")
}
