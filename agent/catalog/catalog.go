// Package catalog is what the server last told this node: its pods and what they refer to, and what
// all nodes share.
//
// Invariant: it shows what is on the disk. A change is written to the database first and is seen
// here after; objects are never changed, a changed object is another pointer. ConfigMaps and
// Secrets, which may be large and are seldom looked at, are read from the database when they are.
//
//	c, err := catalog.Open(db, log)
//	touched, err := c.Apply(ctx, "node", changes)
//	pods := c.Pods()
package catalog

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"bramble.dev/agent/state"
	"bramble.dev/link"
)

// The sets.
const (
	Node   = "node"
	Shared = "shared"
)

// Catalog holds the sets. Its methods may be called from several goroutines.
type Catalog struct {
	db  *state.DB
	log *slog.Logger

	mu       sync.RWMutex
	pods     map[string]*corev1.Pod
	claims   map[string]*corev1.PersistentVolumeClaim
	volumes  map[string]*corev1.PersistentVolume
	removals map[string]*corev1.PersistentVolume
	bundles  map[string]*certificatesv1.ClusterTrustBundle
	nodes    map[string]*corev1.Node
	services map[string]*corev1.Service
	slices   map[string]*discoveryv1.EndpointSlice
	peers    map[string]link.Peer
	policies map[string]*networkingv1.NetworkPolicy
	named    map[string]*corev1.Pod // by policies
	spaces   map[string]*corev1.Namespace
	routes   map[string]*networkingv1.Ingress
	cluster  *link.ClusterConfig
	loaded   map[string]bool // sets that were complete once
	sorted   sortedLists     // nil where something changed
}

type sortedLists struct {
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
	peers    []link.Peer
	policies []*networkingv1.NetworkPolicy
	named    []*corev1.Pod
	spaces   []*corev1.Namespace
}

// Touched says what a change was about.
type Touched struct {
	Pods       bool
	Network    bool            // services, endpoints, peers, policies, the cluster, this node
	Node       bool            // this node's object
	Namespaces map[string]bool // in which an object that pods may refer to changed
	Volumes    bool            // a volume, a trust bundle or a handler changed, which have no namespace
	Removals   bool            // of volumes
	Secrets    bool            // a Secret changed, which an Ingress may name
}

// Open loads the sets.
func Open(db *state.DB, log *slog.Logger) (*Catalog, error) {
	c := &Catalog{
		db: db, log: log, pods: map[string]*corev1.Pod{}, claims: map[string]*corev1.PersistentVolumeClaim{}, volumes: map[string]*corev1.PersistentVolume{}, removals: map[string]*corev1.PersistentVolume{},
		nodes: map[string]*corev1.Node{}, services: map[string]*corev1.Service{}, slices: map[string]*discoveryv1.EndpointSlice{}, peers: map[string]link.Peer{},
		policies: map[string]*networkingv1.NetworkPolicy{}, routes: map[string]*networkingv1.Ingress{}, named: map[string]*corev1.Pod{}, spaces: map[string]*corev1.Namespace{},
		bundles: map[string]*certificatesv1.ClusterTrustBundle{}, loaded: map[string]bool{},
	}
	for _, set := range []string{Node, Shared} {
		rows, err := db.Load(state.SetBucket(set))
		if err != nil {
			return nil, fmt.Errorf("load the %s set: %w", set, err)
		}
		for key, value := range rows {
			c.take(key, value)
		}
		_, c.loaded[set], err = db.Get(state.Meta, loadedKey(set))
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

func loadedKey(set string) string { return "loaded/" + set }

// Index returns keys and versions of a set, which is what the link must know of it.
func (c *Catalog) Index(set string) (*link.Set, error) {
	rows, err := c.db.Load(state.SetBucket(set))
	if err != nil {
		return nil, err
	}
	index := link.NewIndex()
	for key, value := range rows {
		index.PutVersion(key, link.VersionOf(value))
	}
	return index, nil
}

// Apply stores changes of a set and then shows them.
func (c *Catalog) Apply(ctx context.Context, set string, changes []link.Change) (Touched, error) {
	rows := make([]state.Change, len(changes))
	for i, ch := range changes {
		rows[i] = state.Change{Key: ch.Key, Value: ch.Value}
	}
	if err := c.db.Write(ctx, state.SetBucket(set), rows); err != nil {
		return Touched{}, err
	}
	touched := Touched{Namespaces: map[string]bool{}}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range changes {
		c.take(ch.Key, ch.Value)
		touched.add(ch.Key)
	}
	touched.Network = touched.Network || touched.Pods && len(c.policies) > 0 // which look at pods' labels
	return touched, nil
}

func (t *Touched) add(key string) {
	kind, rest, _ := strings.Cut(key, "/")
	namespace, _, _ := strings.Cut(rest, "/")
	switch kind {
	case "pods":
		t.Pods = true
	case "node":
		t.Node, t.Network = true, true
	case "services", "endpointslices", "peers", "cluster", "ingresses", "networkpolicies", "policypeers", "namespaces":
		t.Network = true
	case "persistentvolumes", "clustertrustbundles", "handlers":
		t.Volumes = true
	case "volumeremovals":
		t.Removals = true
	default:
		t.Secrets = t.Secrets || kind == "secrets"
		t.Namespaces[namespace] = true
	}
}

// Loaded says whether a set was complete once: before that, what is missing in it may only not
// have arrived yet.
func (c *Catalog) Loaded(set string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.loaded[set]
}

// SetLoaded notes that a set is complete; that outlives a restart.
func (c *Catalog) SetLoaded(set string) {
	c.mu.Lock()
	was := c.loaded[set]
	c.loaded[set] = true
	c.mu.Unlock()
	if !was {
		c.db.Queue(state.Meta, loadedKey(set), []byte("1"))
	}
}

// unmarshaler is a Kubernetes type with its protobuf encoding.
type unmarshaler[T any] interface {
	*T
	Unmarshal([]byte) error
}

// put decodes a value into a map, or removes it. What cannot be decoded is as good as absent.
func put[T any, P unmarshaler[T]](c *Catalog, m map[string]*T, key, name string, value []byte) {
	if value == nil {
		delete(m, name)
		return
	}
	v := P(new(T))
	if err := v.Unmarshal(value); err != nil {
		c.log.Error("an object of the server's cannot be read", "key", key, "err", err)
		return
	}
	m[name] = (*T)(v)
}

// take shows one item.
func (c *Catalog) take(key string, value []byte) {
	kind, name, _ := strings.Cut(key, "/")
	switch kind {
	case "pods":
		put(c, c.pods, key, name, value)
	case "persistentvolumeclaims":
		put(c, c.claims, key, name, value)
	case "persistentvolumes":
		put(c, c.volumes, key, name, value)
	case "clustertrustbundles":
		put(c, c.bundles, key, name, value)
	case "volumeremovals":
		put(c, c.removals, key, name, value)
	case "node":
		put(c, c.nodes, key, name, value)
	case "services":
		put(c, c.services, key, name, value)
		c.sorted.services = nil
	case "endpointslices":
		put(c, c.slices, key, name, value)
		c.sorted.slices = nil
	case "networkpolicies":
		put(c, c.policies, key, name, value)
		c.sorted.policies = nil
	case "policypeers":
		put(c, c.named, key, name, value)
		c.sorted.named = nil
	case "namespaces":
		put(c, c.spaces, key, name, value)
		c.sorted.spaces = nil
	case "ingresses":
		put(c, c.routes, key, name, value)
	case "peers":
		c.takePeer(key, name, value)
	case "cluster":
		c.takeCluster(value)
	}
}

func (c *Catalog) takePeer(key, name string, value []byte) {
	c.sorted.peers = nil
	if value == nil {
		delete(c.peers, name)
		return
	}
	p, err := link.DecodePeer(value)
	if err != nil {
		c.log.Error("an object of the server's cannot be read", "key", key, "err", err)
		return
	}
	c.peers[name] = p
}

func (c *Catalog) takeCluster(value []byte) {
	if value == nil {
		return // without it the node could not go on as it was
	}
	cluster, err := link.DecodeClusterConfig(value)
	if err != nil {
		c.log.Error("the cluster's configuration cannot be read", "err", err)
		return
	}
	c.cluster = &cluster
}

// Pods are the pods of this node.
func (c *Catalog) Pods() []*corev1.Pod {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return byKey(c.pods)
}

func byKey[T any](m map[string]T) []T {
	out := make([]T, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}

// Node is this node's object, or nil.
func (c *Catalog) Node() *corev1.Node {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, n := range c.nodes {
		return n
	}
	return nil
}

// Cluster is the cluster's configuration, or nil.
func (c *Catalog) Cluster() *link.ClusterConfig {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.cluster
}

// Services are all Services, in the same order each time; synced is false until all were told once.
func (c *Catalog) Services() (list []*corev1.Service, synced bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sorted.services == nil {
		c.sorted.services = byKey(c.services)
	}
	return c.sorted.services, c.loaded[Shared]
}

// EndpointSlices are all endpoints, in the same order each time.
func (c *Catalog) EndpointSlices() []*discoveryv1.EndpointSlice {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sorted.slices == nil {
		c.sorted.slices = byKey(c.slices)
	}
	return c.sorted.slices
}

// Ingresses are those that nodes serve, in the same order each time.
func (c *Catalog) Ingresses() []*networkingv1.Ingress {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return byKey(c.routes)
}

// Peers are the other nodes, and this one.
func (c *Catalog) Peers() []link.Peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sorted.peers == nil {
		c.sorted.peers = byKey(c.peers)
	}
	return c.sorted.peers
}

// Policies are the NetworkPolicies that select pods of this node, the pods that policies name, and the
// namespaces that they may name, in the same order each time; all of one moment, with the pods.
func (c *Catalog) Policies() (pods []*corev1.Pod, policies []*networkingv1.NetworkPolicy, named []*corev1.Pod, spaces []*corev1.Namespace) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.sorted
	if s.policies == nil {
		s.policies = byKey(c.policies)
	}
	if s.named == nil {
		s.named = byKey(c.named)
	}
	if s.spaces == nil {
		s.spaces = byKey(c.spaces)
	}
	return byKey(c.pods), s.policies, s.named, s.spaces
}

// ConfigMap reads one from the database.
func (c *Catalog) ConfigMap(namespace, name string) (*corev1.ConfigMap, bool) {
	v := &corev1.ConfigMap{}
	return v, c.read("configmaps/"+namespace+"/"+name, v.Unmarshal)
}

// Secret reads one from the database.
func (c *Catalog) Secret(namespace, name string) (*corev1.Secret, bool) {
	v := &corev1.Secret{}
	return v, c.read("secrets/"+namespace+"/"+name, v.Unmarshal)
}

// RuntimeHandler reads the handler of a RuntimeClass that a pod of this node names.
func (c *Catalog) RuntimeHandler(class string) (handler string, ok bool) {
	ok = c.read("handlers/"+class, func(b []byte) error { handler = string(b); return nil })
	return handler, ok
}

func (c *Catalog) read(key string, unmarshal func([]byte) error) bool {
	b, ok, err := c.db.Get(state.SetBucket(Node), key)
	if err == nil && ok {
		err = unmarshal(b)
	}
	if err != nil {
		c.log.Error("an object of the server's cannot be read", "key", key, "err", err)
	}
	return ok && err == nil
}

// PersistentVolumeClaim is a claim of a pod of this node.
func (c *Catalog) PersistentVolumeClaim(namespace, name string) (*corev1.PersistentVolumeClaim, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	v, ok := c.claims[namespace+"/"+name]
	return v, ok
}

// PersistentVolume is a volume that a claim is bound to.
func (c *Catalog) PersistentVolume(name string) (*corev1.PersistentVolume, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	v, ok := c.volumes[name]
	return v, ok
}

// ClusterTrustBundles are those that pods of this node name.
func (c *Catalog) ClusterTrustBundles() []*certificatesv1.ClusterTrustBundle {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return byKey(c.bundles)
}

// Removals are the volumes that this node is to remove.
func (c *Catalog) Removals() []*corev1.PersistentVolume {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return byKey(c.removals)
}
