package dispatch

import (
	"context"
	"crypto/x509"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"bramble.dev/link"
	"bramble.dev/server/cache"
)

// dirtySet names what is to be derived again: each once, so it is bounded by what there is.
type dirtySet struct {
	wake chan struct{}
	mu   sync.Mutex
	keys map[string]bool
}

// Keys of the dirty set: items of the shared set as they are, policiesKey, and these.
func nodeKey(name string) string  { return "needs/" + name }
func renewKey(name string) string { return "renew/" + name }

func (s *dirtySet) add(key string) {
	s.mu.Lock()
	if s.keys == nil {
		s.keys = map[string]bool{}
	}
	s.keys[key] = true
	s.mu.Unlock()
	poke(s.wake)
}

func (s *dirtySet) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := make([]string, 0, len(s.keys))
	for k := range s.keys {
		keys = append(keys, k)
	}
	s.keys = nil
	slices.Sort(keys)
	return keys
}

// synced waits until the caches have been filled once.
func (d *Dispatcher) synced(ctx context.Context) error {
	c := d.cfg.Caches
	for _, wait := range []func(context.Context) error{
		c.Pods().WaitSynced, c.Nodes().WaitSynced, c.PersistentVolumeClaims().WaitSynced, c.PersistentVolumes().WaitSynced,
		c.Services().WaitSynced, c.EndpointSlices().WaitSynced, c.NetworkPolicies().WaitSynced, c.Namespaces().WaitSynced, c.Ingresses().WaitSynced, c.IngressClasses().WaitSynced,
		c.ClusterTrustBundles().WaitSynced,
	} {
		if err := wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// watch marks what changes in the caches touch.
func (d *Dispatcher) watch() (stop func()) {
	c := d.cfg.Caches
	d.state.podsOn("") // the indexes exist before the first change
	d.state.removals("")
	d.state.trustBundles("")
	d.dirty.add(policiesKey)
	stops := []func(){
		c.Pods().OnChange(func(x cache.Change[corev1.Pod]) {
			for _, p := range []*corev1.Pod{x.Old, x.New} {
				if p != nil && p.Spec.NodeName != "" {
					d.dirty.add(nodeKey(p.Spec.NodeName))
				}
			}
			if d.shared.peering.Load() != nil {
				d.dirty.add(policyPeerKey(x.Object()))
			}
			d.podContradicted(x)
		}),
		c.Nodes().OnChange(func(x cache.Change[corev1.Node]) {
			d.dirty.add(nodeKey(x.Object().Name))
			d.dirty.add(peerKey(x.Object().Name))
			d.nodeContradicted(x)
		}),
		c.PersistentVolumeClaims().OnChange(func(x cache.Change[corev1.PersistentVolumeClaim]) {
			d.contents.changed(ref{claim, x.Object().Namespace, x.Object().Name})
		}),
		c.PersistentVolumes().OnChange(func(x cache.Change[corev1.PersistentVolume]) {
			d.contents.changed(ref{kind: volume, name: x.Object().Name})
			for _, pv := range []*corev1.PersistentVolume{x.Old, x.New} {
				if pv != nil && link.Removes(pv) != "" {
					d.dirty.add(nodeKey(link.Removes(pv)))
				}
			}
		}),
		c.ClusterTrustBundles().OnChange(d.trustChanged),
		d.contents.follow(configMap, schema.GroupResource{Resource: "configmaps"}),
		d.contents.follow(secret, schema.GroupResource{Resource: "secrets"}),
		d.contents.follow(handler, schema.GroupResource{Group: "node.k8s.io", Resource: "runtimeclasses"}),
		c.Services().OnChange(func(x cache.Change[corev1.Service]) { d.dirty.add(serviceKey(x.Object())) }),
		c.EndpointSlices().OnChange(func(x cache.Change[discoveryv1.EndpointSlice]) { d.dirty.add(endpointSliceKey(x.Object())) }),
		c.NetworkPolicies().OnChange(func(x cache.Change[networkingv1.NetworkPolicy]) { d.policyChanged(x.Object()) }),
		c.Namespaces().OnChange(func(x cache.Change[corev1.Namespace]) { d.namespaceChanged(x.Object()) }),
	}
	stops = append(stops, d.watchIngresses()...)
	return func() {
		for _, s := range stops {
			s()
		}
	}
}

// paceEach is how long changes of what nodes share are gathered, for each node that is told of them: 20 ms with ten nodes, two
// seconds with a thousand. Otherwise a thousand boards that come back together, or a rollout of a thousand pods, would be
// told of to each of a thousand nodes by a frame a change. A frame costs the server a quarter of a millisecond.
const paceEach = 2 * time.Millisecond

// derive brings sets up to date, until ctx is done. The first change of what is shared is told at once, those that follow
// closely are gathered; what is a node's own is never held up.
func (d *Dispatcher) derive(ctx context.Context) {
	var sites sitesTold
	next := time.Now() // the earliest time to tell of shared changes
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-d.dirty.wake:
			sites.add(d.deriveDirty(ctx))
		}
		if now := time.Now(); !sites.any() {
			continue
		} else if wait := next.Sub(now); wait > 0 {
			timer.Reset(wait)
			continue
		}
		told := d.tell(sites)
		sites, next = sitesTold{}, time.Now().Add(time.Duration(told)*paceEach)
	}
}

// sitesTold are the sites whose nodes are to be told that what they share has changed.
type sitesTold struct {
	all   bool
	sites map[string]bool
}

func (s *sitesTold) any() bool { return s.all || len(s.sites) > 0 }

func (s *sitesTold) add(more sitesTold) {
	s.all = s.all || more.all
	if s.sites == nil {
		s.sites = more.sites
		return
	}
	maps.Copy(s.sites, more.sites)
}

// tell tells the nodes of the sites that what they share has changed, and how many it told.
func (d *Dispatcher) tell(sites sitesTold) (told int) {
	for _, n := range d.all() {
		if sites.all || sites.sites[n.at()] {
			if s := n.current(); s != nil {
				s.Changed()
				told++
			}
		}
	}
	return told
}

// deriveDirty derives what is marked. It tells nodes of what is their own; where what is shared has changed it returns.
func (d *Dispatcher) deriveDirty(ctx context.Context) sitesTold {
	changed, moved := map[string]bool{}, map[string]bool{}
	for _, key := range d.dirty.take() {
		kind, name, _ := strings.Cut(key, "/")
		switch kind {
		case "needs":
			d.deriveNode(ctx, name)
		case "renew":
			d.renewCertificate(name)
		case "peers":
			site, elsewhere := d.shared.settle(name)
			if elsewhere {
				moved[name] = true
			}
			if n := d.node(name); n != nil {
				n.move(site)
			}
			d.shared.update(key, kind, name, changed)
		case "policies":
			for _, key := range d.shared.settlePolicies() {
				kind, name, _ := strings.Cut(key, "/")
				d.shared.update(key, kind, name, changed)
			}
		default:
			d.shared.update(key, kind, name, changed)
		}
	}
	if len(moved) > 0 {
		for _, key := range d.shared.slicesOn(moved) {
			d.shared.update(key, "endpointslices", strings.TrimPrefix(key, "endpointslices/"), changed)
		}
		for _, key := range d.shared.peersOn(moved) {
			d.shared.update(key, "policypeers", strings.TrimPrefix(key, "policypeers/"), changed)
		}
	}
	return sitesTold{all: len(moved) > 0, sites: changed}
}

func (d *Dispatcher) deriveNode(ctx context.Context, name string) {
	n := d.node(name)
	if n == nil {
		d.contents.forget(name)
		return
	}
	changed, err := n.derive(ctx)
	if err != nil {
		if !errors.Is(err, errChanged) {
			d.log.Error("what a node needs could not be derived", "node", name, "err", err)
		}
		time.AfterFunc(time.Second, func() { d.dirty.add(nodeKey(name)) })
	}
	if s := n.current(); changed && s != nil {
		s.Changed()
	}
}

// derive brings the node's set up to date. When something could not be read the rest is done.
func (n *node) derive(ctx context.Context) (changed bool, err error) {
	n.deriving.Lock()
	defer n.deriving.Unlock()
	d := n.d
	items, refs, left := nodeItems(n.name, d.state)
	d.contents.want(n.name, refs, n.needs.refs)
	n.needs.refs = refs
	some, err := d.contents.load(ctx, refs)
	if some {
		items, _, left = nodeItems(n.name, d.state)
	}
	changed, failed := n.needs.become(items)
	return changed, errors.Join(err, failed, n.refuseMisplaced(ctx, left))
}

// renewCertificate answers a node that asks for a new certificate for its key.
func (d *Dispatcher) renewCertificate(name string) {
	n := d.node(name)
	if n == nil {
		return
	}
	n.mu.Lock()
	s, spki := n.session, n.spki
	n.mu.Unlock()
	if s == nil {
		return
	}
	der, err := d.sign(name, spki)
	if err != nil {
		d.log.Error("a node's certificate could not be renewed", "node", name, "err", err)
		return
	}
	s.SendCertificate(der)
}

func (d *Dispatcher) sign(name string, spki []byte) ([]byte, error) {
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, err
	}
	return d.cfg.Identity.SignNode(name, key)
}
