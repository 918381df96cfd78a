package dispatch

import (
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"bramble.dev/link"
	"bramble.dev/server/cache"
)

// shared is what nodes share: one set for each site, so that a pod that becomes ready wakes the
// nodes of its own site alone. A node without a label is at the site without a name. Services, by
// which names resolve, are everywhere; peers and endpoints are where pods can reach them. Where the
// operator lets pods' packets travel between sites, all nodes are at one.
type shared struct {
	caches  *cache.Set
	cluster link.ClusterConfig
	log     *slog.Logger
	peering atomic.Pointer[peering] // whom policies name

	mu    sync.Mutex
	sites map[string]*link.Set
	nodes map[string]string // node -> its site, as the sets have it
}

func newShared(caches *cache.Set, cluster link.ClusterConfig, log *slog.Logger) (*shared, error) {
	s := &shared{caches: caches, cluster: cluster, log: log, sites: map[string]*link.Set{}, nodes: map[string]string{}}
	_, err := cluster.Encode() // so that it cannot fail later
	return s, err
}

// siteOf tells at which site a node is.
func (s *shared) siteOf(node string) string {
	if s.cluster.AcrossSites {
		return ""
	}
	if n, ok := s.caches.Nodes().Get("", node); ok {
		return n.Labels[link.SiteLabel]
	}
	return ""
}

// set is what the nodes of a site are to have.
func (s *shared) set(site string) *link.Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.setLocked(site)
}

func (s *shared) setLocked(site string) *link.Set {
	if set := s.sites[site]; set != nil {
		return set
	}
	s.sites[site] = link.NewSet()
	for _, x := range s.caches.Services().List("", nil) {
		s.put(site, serviceKey(x), s.service(x))
	}
	for _, x := range s.caches.EndpointSlices().List("", nil) {
		s.put(site, endpointSliceKey(x), s.endpoints(x))
	}
	for _, x := range s.caches.Nodes().List("", nil) {
		s.put(site, peerKey(x.Name), s.peer(x))
	}
	if s.peering.Load() != nil {
		for _, x := range s.caches.Pods().List("", nil) {
			s.put(site, policyPeerKey(x), s.policyPeer(x))
		}
		for _, x := range s.caches.Namespaces().List("", nil) {
			s.put(site, namespaceKey(x.Name), s.namespace(x))
		}
	}
	for _, x := range s.caches.Ingresses().List("", nil) {
		s.put(site, ingressKey(x), s.ingress(x))
	}
	s.tellSites()
	return s.sites[site]
}

// tellSites brings item cluster/config up to date, which names the other sites.
func (s *shared) tellSites() (changed bool) {
	inhabited := s.inhabited()
	for site, set := range s.sites {
		c := s.cluster
		for _, other := range slices.Sorted(maps.Keys(inhabited)) {
			if other != site {
				c.OtherSites = append(c.OtherSites, other)
			}
		}
		if value, err := c.Encode(); err == nil {
			changed = set.Put(link.ClusterKey, value) || changed
		}
	}
	return changed
}

// inhabited are the sites of all nodes.
func (s *shared) inhabited() map[string]bool {
	sites := map[string]bool{}
	for _, n := range s.caches.Nodes().List("", nil) {
		sites[s.siteOf(n.Name)] = true
	}
	return sites
}

// A valueAt is an item's value at a site; nil: it is not there.
type valueAt func(site string) ([]byte, error)

func nowhere(string) ([]byte, error) { return nil, nil }

func (s *shared) service(x *corev1.Service) valueAt {
	value, err := trimService(x).Marshal()
	return func(string) ([]byte, error) { return value, err }
}

// endpoints of a slice are those on nodes of the site, and those on no node.
func (s *shared) endpoints(x *discoveryv1.EndpointSlice) valueAt {
	return func(site string) ([]byte, error) {
		out := trimEndpointSlice(x)
		out.Endpoints = slices.DeleteFunc(out.Endpoints, func(e discoveryv1.Endpoint) bool {
			return e.NodeName != nil && s.siteOf(*e.NodeName) != site
		})
		if len(out.Endpoints) == 0 {
			return nil, nil
		}
		return out.Marshal()
	}
}

func (s *shared) peer(x *corev1.Node) valueAt {
	p, ok := peerOf(x)
	if !ok {
		return nowhere
	}
	value, err := p.Encode()
	return func(site string) ([]byte, error) {
		if s.siteOf(x.Name) != site {
			return nil, nil
		}
		return value, err
	}
}

// item is what an item's object says now.
func (s *shared) item(kind, name string) valueAt {
	namespace, object, _ := strings.Cut(name, "/")
	switch kind {
	case "services":
		if x, ok := s.caches.Services().Get(namespace, object); ok {
			return s.service(x)
		}
	case "endpointslices":
		if x, ok := s.caches.EndpointSlices().Get(namespace, object); ok {
			return s.endpoints(x)
		}
	case "ingresses":
		if x, ok := s.caches.Ingresses().Get(namespace, object); ok {
			return s.ingress(x)
		}
	case "peers":
		if x, ok := s.caches.Nodes().Get("", name); ok {
			return s.peer(x)
		}
	case "policypeers":
		if x, ok := s.caches.Pods().Get(namespace, object); ok {
			return s.policyPeer(x)
		}
	case "namespaces":
		if x, ok := s.caches.Namespaces().Get("", name); ok {
			return s.namespace(x)
		}
	}
	return nowhere
}

// put brings an item of one site up to date.
func (s *shared) put(site, key string, at valueAt) (changed bool) {
	value, err := at(site)
	if err != nil {
		s.log.Error("an item could not be encoded", "key", key, "err", err)
		return false
	}
	if value == nil {
		return s.sites[site].Delete(key)
	}
	return s.sites[site].Put(key, value)
}

// update brings an item up to date everywhere, and notes in changed where that changed something.
func (s *shared) update(key, kind, name string, changed map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.item(kind, name)
	for site := range s.sites {
		if s.put(site, key, at) {
			changed[site] = true
		}
	}
}

// settle notes where a node is. When it has moved, or there are other sites than before, all nodes
// may have to be told.
func (s *shared) settle(node string) (site string, moved bool) {
	site = s.siteOf(node)
	_, exists := s.caches.Nodes().Get("", node)
	s.mu.Lock()
	defer s.mu.Unlock()
	before, known := s.nodes[node]
	if known == exists && before == site {
		return site, false
	}
	if exists {
		s.nodes[node] = site
	} else {
		delete(s.nodes, node)
	}
	inhabited := s.inhabited()
	maps.DeleteFunc(s.sites, func(site string, _ *link.Set) bool {
		return site != "" && !inhabited[site] // nodes that join are at the one without a name at first
	})
	s.setLocked(site)
	return site, s.tellSites() || before != site
}

// slicesOn lists the endpoint slices that name one of the nodes.
func (s *shared) slicesOn(nodes map[string]bool) (keys []string) {
	for _, x := range s.caches.EndpointSlices().List("", nil) {
		if slices.ContainsFunc(x.Endpoints, func(e discoveryv1.Endpoint) bool { return e.NodeName != nil && nodes[*e.NodeName] }) {
			keys = append(keys, endpointSliceKey(x))
		}
	}
	return keys
}
