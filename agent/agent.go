// Package agent is a node: it runs the pods that the server wants here, tells how they are, and
// goes on doing so with no server at all.
//
// Invariants: what the server wants is on the node's own disk before anything is done about it, so
// that a reboot with no link starts the same pods; ending the agent ends no pod, and the next agent
// takes over what runs as it is; what is left of other pods is swept only once the server's wishes
// have been loaded. The parts below it (runtime, mesh, storage) are known by the interfaces of
// package seam.
//
//	err := agent.Run(ctx, agent.Config{DataDir: "/var/lib/bramble", Servers: []string{"mqtts://server:8883"}, Token: token, Logger: log})
package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/apiproxy"
	"bramble.dev/agent/catalog"
	"bramble.dev/agent/clock"
	"bramble.dev/agent/control"
	"bramble.dev/agent/credential"
	"bramble.dev/agent/events"
	"bramble.dev/agent/fence"
	"bramble.dev/agent/hook"
	"bramble.dev/agent/kubelet"
	"bramble.dev/agent/probe"
	"bramble.dev/agent/seam"
	"bramble.dev/agent/shortage"
	"bramble.dev/agent/state"
	"bramble.dev/agent/status"
	"bramble.dev/agent/uplink"
	"bramble.dev/agent/worker"
	"bramble.dev/link"
)

// server is what the agent asks of the link.
type server interface {
	Run(ctx context.Context) error
	Notify()
	Moved()
	OnAcknowledged(func(key string, version link.Version))
	Dial(ctx context.Context, target string) (net.Conn, error)
	SetBrokers(more []string) error
	Synced(set string) bool
	Certificate() (*tls.Certificate, error)
	CACertPEM() []byte
}

// agent is what Run wires together.
type agent struct {
	config      Config
	connect     func(context.Context, uplink.Config) (server, error)
	log         *slog.Logger
	db          *state.DB
	floor       *clock.Floor
	catalog     *catalog.Catalog
	reports     *reports
	events      *events.Recorder
	fence       *fence.Fence
	uplink      server
	proxy       *apiproxy.Proxy
	credentials *credential.Credentials
	runtime     seam.Runtime
	images      seam.Images
	volumes     seam.Volumes
	removals    *removals
	outages     func(context.Context) // of file servers; tells until its context is done
	network     *network
	self        *self
	probes      *probe.Manager
	shortage    *shortage.Guard
	pods        *worker.Manager
	kubelet     *kubelet.Listener

	closers []func() error // in the order in which things were opened
	aside   sync.WaitGroup // what callbacks that must not block have begun
	setting sync.Mutex     // of the pods: what was read later is not overwritten by what was read before
}

// Run is the node until ctx is done. Its pods go on running.
func Run(ctx context.Context, c Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	if err := uplink.Check(uplink.Config{Brokers: c.Servers, Dir: c.dir(), NodeName: c.NodeName, Token: c.Token}); err != nil {
		return err
	}
	return run(ctx, c, func(ctx context.Context, c uplink.Config) (server, error) { return uplink.Open(ctx, c) })
}

func run(ctx context.Context, c Config, connect func(context.Context, uplink.Config) (server, error)) error {
	if err := c.complete(); err != nil {
		return err
	}
	_, missing := os.Stat(c.dir())
	err := hold(ctx, c, connect)
	var refusal *link.Refusal
	if errors.As(err, &refusal) && errors.Is(missing, os.ErrNotExist) {
		return errors.Join(err, forget(ctx, c))
	}
	return err
}

// hold is the node for as long as nobody else can be in its folder.
func hold(ctx context.Context, c Config, connect func(context.Context, uplink.Config) (server, error)) error {
	if err := os.MkdirAll(c.dir(), 0o700); err != nil {
		return fmt.Errorf("create the agent's folder: %w", err)
	}
	held, err := c.lock()
	if err != nil {
		return err
	}
	defer held.Release()
	a := &agent{config: c, connect: connect, log: c.Logger, kubelet: kubelet.NewListener()}
	defer a.close()
	if err := a.open(ctx); err != nil {
		return err
	}
	return a.run(ctx)
}

func (a *agent) close() {
	for i := len(a.closers) - 1; i >= 0; i-- {
		if err := a.closers[i](); err != nil {
			a.log.Warn("the agent did not end cleanly", "err", err)
		}
	}
}

// open opens the parts, from the disk alone.
func (a *agent) open(ctx context.Context) error {
	c := &a.config
	var err error
	if a.floor, err = clock.Open(c.dir("time"), c.SetClock, a.log); err != nil {
		return err
	}
	a.floor.Raise()
	if a.db, err = state.Open(c.dir("agent.db"), a.log); err != nil {
		return err
	}
	a.closers = append(a.closers, a.db.Close)
	if a.catalog, err = catalog.Open(a.db, a.log); err != nil {
		return err
	}
	if a.reports, err = openReports(a.db, a.log); err != nil {
		return err
	}
	a.events = events.New(c.NodeName, a.reports.event, time.Now)
	if err := a.openUplink(ctx); err != nil {
		return err
	}
	a.proxy = apiproxy.New(apiproxy.Config{Servers: a.apiServers, Dial: a.uplink.Dial, Logger: a.log})
	a.credentials, err = credential.New(credential.Config{
		Store: a.db, Client: apiClient(a.uplink, a.proxy, a.floor), URL: apiURL, Node: a.config.NodeName, Logger: a.log,
		Refresh: func(uid types.UID) { a.pods.Refresh(uid) },
	})
	if err != nil {
		return err
	}
	if err := a.openParts(ctx); err != nil {
		return err
	}
	return a.openPods()
}

func (a *agent) openUplink(ctx context.Context) error {
	c := &a.config
	brokers := slices.Clone(c.Servers)
	if cluster := a.catalog.Cluster(); cluster != nil { // the server may have moved since it was named
		brokers = append(brokers, cluster.Brokers...) // uplink passes over those that are named twice
	}
	a.closers = append(a.closers, func() error { a.aside.Wait(); return nil })
	a.fence = fence.New(fence.Config{
		Clock: fence.Boottime, Claim: a.catalog.PersistentVolumeClaim,
		Wake: func(uid types.UID) { a.pods.Wake(uid) }, Ask: func() { a.uplink.Notify() },
	})
	var err error
	a.uplink, err = a.connect(ctx, uplink.Config{
		Brokers: brokers, Dir: c.dir(), NodeName: c.NodeName, Token: c.Token, BrokerRoots: c.BrokerRoots,
		Load: a.catalog.Index, Apply: a.apply, Status: a.reports.set, Serve: a.serve, Stamp: a.fence.Stamp, Held: a.fence.Held, Connected: func() { a.credentials.Again() },
		Floor: a.floor.Time, ServerTime: func(t time.Time) { a.aside.Go(func() { a.floor.Learn(t) }) }, Logger: a.log,
	})
	if err != nil {
		return err
	}
	a.reports.notify = a.uplink.Notify
	a.uplink.OnAcknowledged(a.reports.acknowledged)
	return nil
}

func (a *agent) apiServers() []string {
	if c := a.catalog.Cluster(); c != nil {
		return c.Servers
	}
	return nil
}

// openPods opens what runs pods, on the parts that are open.
func (a *agent) openPods() error {
	a.probes = probe.New(probe.Config{Exec: a.runtime.Exec, Events: a.events, Changed: func(uid types.UID) { a.pods.Wake(uid) }})
	a.closers = append(a.closers, func() error { a.probes.Close(); return nil })
	var err error
	a.pods, err = worker.New(worker.Config{
		Runtime: a.runtime, Images: a.images, Network: a.network, Volumes: a.volumes, Objects: a.catalog, Prober: a.probes,
		Hooks: hook.Runner{Exec: a.runtime.Exec, Events: a.events}, Events: a.events, Store: a.db,
		Report: a.reports.pod, Retract: func(pod *corev1.Pod) {
			a.reports.retract(pod)
			a.credentials.Forget(pod.UID)
		},
		Facts: a.facts, Fence: a.fence, Dir: a.config.dir(), Logger: a.log,
		Admit: func(pod *corev1.Pod, others []*corev1.Pod) *status.Waiting {
			if why := shortage.Refuse(pod, a.shortage.Pressure()); why != nil {
				return why
			}
			return admit(pod, others, a.self.allocatable(), a.ownPorts())
		},
	})
	return err
}

func (a *agent) facts() worker.Facts {
	f := worker.Facts{HostIPs: a.self.addresses(), Allocatable: a.self.allocatable()}
	if c := a.catalog.Cluster(); c != nil {
		f.ClusterDomain = c.Domain
		if c.DNS != "" {
			f.ClusterDNS = []string{c.DNS}
		}
	}
	return f
}

// run runs the parts until ctx is done, or one of them cannot go on.
func (a *agent) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var parts sync.WaitGroup
	defer parts.Wait()
	part := func(name string, f func(context.Context) error) {
		parts.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	quiet := func(f func(context.Context)) func(context.Context) error {
		return func(ctx context.Context) error { f(ctx); return nil }
	}
	// The network first: pods that run already ask for names, and those that start need addresses.
	first := a.network.set(ctx)
	part("network", func(ctx context.Context) error { a.network.run(ctx, first); return nil })
	part("pods", a.pods.Run)
	if a.catalog.Loaded(catalog.Node) {
		a.setPods(ctx)
	}
	a.self.update(ctx)
	part("node", quiet(a.self.run))
	part("shortage", quiet(func(ctx context.Context) {
		a.pods.Settled(ctx) // what runs is known: before that, nobody can say who uses what
		a.shortage.Run(ctx)
	}))
	part("removals", quiet(a.removals.run))
	part("outages", quiet(a.outages))
	part("credentials", quiet(a.credentials.Run))
	part("clock", quiet(a.floor.Run))
	part("database", a.watchDatabase)
	part("kubelet API", a.serveKubelet)
	part("control socket", func(ctx context.Context) error {
		return control.Serve(ctx, control.Socket(a.config.DataDir), a.controlled())
	})
	a.settle(ctx)
	part("uplink", a.uplink.Run)
	part("sets", quiet(a.awaitSets))
	a.events.Event(events.Node(a.config.NodeName), corev1.EventTypeNormal, events.NodeStarting, "Starting kubelet.")
	a.log.Info("the node runs", "node", a.config.NodeName, "address", a.self.address().String(), "machine", a.self.machine.String(), "pods", len(a.catalog.Pods()))
	if a.config.Ready != nil {
		a.config.Ready()
	}
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// settle waits a moment for what runs to be looked at, so that the server is not told that it is
// gone, and then that it is there.
func (a *agent) settle(ctx context.Context) {
	if !a.catalog.Loaded(catalog.Node) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	a.pods.Settled(ctx)
}

func (a *agent) serveKubelet(ctx context.Context) error {
	return kubelet.Serve(ctx, a.kubelet, kubelet.Config{
		Node: a.config.NodeName, Dir: a.config.dir(), Pods: a.pods, Runtime: a.runtime, ReadLog: readLog, BoardLogs: "/var/log", NodeStats: a.self.stats, Logger: a.log,
		ConfigZ: func() any {
			f := a.facts()
			return map[string]any{"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1", "maxPods": a.config.MaxPods, "clusterDomain": f.ClusterDomain, "clusterDNS": f.ClusterDNS, "containerRuntimeEndpoint": "bramble"}
		},
	})
}

// watchDatabase ends the agent when its database can no longer be trusted.
func (a *agent) watchDatabase(ctx context.Context) error {
	select {
	case <-a.db.Broken():
		return a.db.Failed()
	case <-ctx.Done():
		return nil
	}
}

// apply takes in changes of a set. They are on the disk when it returns.
func (a *agent) apply(ctx context.Context, set string, changes []link.Change) error {
	touched, err := a.catalog.Apply(ctx, set, changes)
	if err != nil {
		return err
	}
	if touched.Network {
		a.network.poke()
		a.followBrokers()
	}
	if touched.Removals {
		a.removals.poke()
	}
	if touched.Secrets && len(a.catalog.Ingresses()) > 0 {
		a.network.poke()
	}
	if touched.Volumes {
		a.pods.ObjectsChanged("")
	}
	for namespace := range touched.Namespaces {
		a.pods.ObjectsChanged(namespace)
	}
	if touched.Pods && a.catalog.Loaded(catalog.Node) {
		a.wantPods()
	}
	return nil
}

// followBrokers tells the uplink where the cluster's brokers are now: a server that moves is found
// by agents that run.
func (a *agent) followBrokers() {
	cluster := a.catalog.Cluster()
	if cluster == nil {
		return
	}
	if err := a.uplink.SetBrokers(cluster.Brokers); err != nil {
		a.log.Warn("the cluster names a broker that cannot be used", "err", err)
	}
}

// wantPods hands the pods of the database to the workers. Sets arrive while the node set is found
// complete, on another goroutine.
func (a *agent) wantPods() []*corev1.Pod {
	a.setting.Lock()
	defer a.setting.Unlock()
	pods := a.catalog.Pods()
	a.pods.Set(pods)
	return pods
}

// setPods starts what the database holds, and sweeps what it does not.
func (a *agent) setPods(ctx context.Context) {
	pods := a.wantPods()
	keep := map[types.UID]bool{}
	for _, p := range pods {
		keep[p.UID] = true
	}
	a.credentials.Sweep(func(uid types.UID) bool { return keep[uid] })
	// What a worker still has to end must find its network and volumes.
	if sandboxes, err := a.runtime.List(ctx); err == nil {
		for _, s := range sandboxes {
			keep[s.PodUID] = true
		}
		var uids []types.UID
		for uid := range keep {
			uids = append(uids, uid)
		}
		if err := errors.Join(a.volumes.Sweep(ctx, uids), a.network.Sweep(ctx, uids), a.sweepFolders(keep)); err != nil {
			a.log.Warn("leftovers of pods that are gone could not all be removed", "err", err)
		}
	}
}

// awaitSets notes when the sets are complete for the first time: until then, a pod that is not
// wanted may be one of which we have not been told yet.
func (a *agent) awaitSets(ctx context.Context) {
	for _, set := range []string{catalog.Shared, catalog.Node} {
		for !a.catalog.Loaded(set) {
			if a.uplink.Synced(set) {
				a.catalog.SetLoaded(set)
				if set == catalog.Node {
					a.setPods(ctx)
					a.network.poke() // which policies there are is known only now
				}
				a.pods.ObjectsChanged("")
				break
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				return
			}
		}
	}
}

// serve answers a stream of the server's.
func (a *agent) serve(target string, conn net.Conn) {
	if target == link.TargetKubelet {
		a.kubelet.Push(conn)
		return
	}
	if address, ok := strings.CutPrefix(target, link.TargetTCP); ok {
		to, err := net.DialTimeout("tcp", address, 10*time.Second)
		if err == nil {
			link.Splice(conn, to)
		} else if stream, ok := conn.(aborter); ok {
			stream.Abort(err) // whoever asked is told why: that nobody listens there, most often
		}
	}
	conn.Close()
}

// aborter is a stream that can tell its other end why it ends, as *link.Stream does.
type aborter interface{ Abort(reason error) }
