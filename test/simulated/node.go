// Package simulated makes many nodes of one process, for tests of scale: each is the real agent's link, database, sets,
// pod workers, status and events, over a real connection to a real server. What is fake: containers, images, volumes and
// the network of the node (agent/fake), the board that it claims to be, and its probes, which all succeed at once.
//
//	nodes := simulated.New(simulated.Options{Servers: servers, Token: token, Dir: dir, Count: 1000})
//	err := nodes.Run(ctx)
package simulated

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/agent/catalog"
	"bramble.dev/agent/events"
	"bramble.dev/agent/fake"
	"bramble.dev/agent/probe"
	"bramble.dev/agent/state"
	"bramble.dev/agent/status"
	"bramble.dev/agent/uplink"
	"bramble.dev/agent/worker"
	"bramble.dev/internal/upstream"
	"bramble.dev/link"
)

// node is one of many.
type node struct {
	name    string
	ip      string
	log     *slog.Logger
	db      *state.DB
	catalog *catalog.Catalog
	reports *link.Set
	uplink  *uplink.Uplink
	pods    *worker.Manager
	setting sync.Mutex // of the pods: what was read later is not overwritten by what was read before
	bytes   *atomic.Int64
}

func (n *node) open(ctx context.Context, o Options) error {
	dir := filepath.Join(o.Dir, n.name)
	var err error
	if n.db, err = state.Open(filepath.Join(dir, "agent.db"), n.log); err != nil {
		return err
	}
	if n.catalog, err = catalog.Open(n.db, n.log); err != nil {
		return err
	}
	n.reports = link.NewSet()
	n.uplink, err = uplink.Open(ctx, uplink.Config{
		Brokers: o.Servers, Dir: dir, NodeName: n.name, Token: o.Token,
		Load: n.catalog.Index, Apply: n.apply, Status: n.reports, Serve: func(_ string, conn net.Conn) { conn.Close() },
		Logger: n.log, Dial: n.dial,
	})
	if err != nil {
		return err
	}
	n.uplink.OnAcknowledged(n.acknowledged)
	runtime := fake.NewRuntime()
	n.pods, err = worker.New(worker.Config{
		Runtime: runtime, Images: &fake.Images{}, Network: &fake.Network{}, Volumes: &fake.Volumes{}, Objects: n.catalog,
		Prober: succeeding{}, Hooks: noHooks{}, Events: events.New(n.name, n.event, time.Now), Store: n.db,
		Report: n.report, Retract: func(p *corev1.Pod) { n.put(podKey(p), nil) },
		Facts: func() worker.Facts { return worker.Facts{HostIPs: []string{n.ip}, ClusterDomain: "cluster.local"} },
		Dir:   dir, Logger: n.log,
	})
	return err
}

// run is the node until ctx is done.
func (n *node) run(ctx context.Context) error {
	var parts sync.WaitGroup
	defer parts.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, part := range []func(context.Context) error{n.pods.Run, n.uplink.Run, n.awaitSets} {
		parts.Go(func() {
			if err := part(ctx); err != nil {
				cancel(fmt.Errorf("%s: %w", n.name, err))
			}
		})
	}
	n.tell()
	<-ctx.Done()
	if err := context.Cause(ctx); ctx.Err() != nil && err != context.Canceled {
		return err
	}
	return nil
}

// tell reports the node as one of the boards that Bramble is for.
func (n *node) tell() {
	s := status.Node(status.NodeInput{
		Name: n.name, IPs: []string{n.ip}, MaxPods: 110, Runtime: "simulated", Kubelet: upstream.Version, Now: time.Now(),
		Machine: status.Machine{CPUs: 4, MemoryBytes: 4 << 30, DiskBytes: 32 << 30, Architecture: "arm64", MachineID: n.name, SystemUUID: n.name, BootID: n.name, Kernel: "6.12", OSImage: "simulated"},
	})
	report := &link.NodeReport{Status: s, MAC: net.HardwareAddr{2, 0, 10, 0, 0, 1}, Labels: map[string]string{corev1.LabelHostname: n.name, corev1.LabelArchStable: "arm64", corev1.LabelOSStable: "linux"}}
	if b, err := report.Encode(); err == nil {
		n.put(link.NodeReportKey, b)
	}
}

// awaitSets notes when the sets are complete for the first time.
func (n *node) awaitSets(ctx context.Context) error {
	for _, set := range []string{catalog.Shared, catalog.Node} {
		for !n.uplink.Synced(set) {
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
				return nil
			}
		}
		n.catalog.SetLoaded(set)
	}
	n.want()
	n.pods.ObjectsChanged("")
	return nil
}

func (n *node) want() {
	n.setting.Lock()
	defer n.setting.Unlock()
	n.pods.Set(n.catalog.Pods())
}

// apply takes in changes of a set, as the agent does.
func (n *node) apply(ctx context.Context, set string, changes []link.Change) error {
	touched, err := n.catalog.Apply(ctx, set, changes)
	if err != nil {
		return err
	}
	for namespace := range touched.Namespaces {
		n.pods.ObjectsChanged(namespace)
	}
	if touched.Pods && n.catalog.Loaded(catalog.Node) {
		n.want()
	}
	return nil
}

func (n *node) put(key string, value []byte) {
	if value == nil && n.reports.Delete(key) || value != nil && n.reports.Put(key, value) {
		n.uplink.Notify()
	}
}

func podKey(p *corev1.Pod) string {
	return "pods/" + p.Namespace + "/" + p.Name + "/" + string(p.UID)
}

func (n *node) report(p *corev1.Pod, s corev1.PodStatus, finished bool) {
	b, err := (&link.PodReport{UID: p.UID, Status: s, Terminated: finished}).Encode()
	if err != nil {
		n.log.Error("a pod's status cannot be encoded", "pod", p.Name, "err", err)
		return
	}
	n.put(podKey(p), b)
}

func (n *node) event(e *corev1.Event) {
	if b, err := e.Marshal(); err == nil {
		n.put("events/"+e.Namespace+"/"+e.Name, b)
	}
}

func (n *node) acknowledged(key string, version link.Version) {
	if len(key) > 7 && key[:7] == "events/" {
		if have, ok := n.reports.Version(key); ok && have == version {
			n.reports.Delete(key)
		}
	}
}

// dial counts what crosses the link, TLS included.
func (n *node) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &counted{c, n.bytes}, nil
}

type counted struct {
	net.Conn
	bytes *atomic.Int64
}

func (c *counted) Read(b []byte) (int, error) {
	k, err := c.Conn.Read(b)
	c.bytes.Add(int64(k))
	return k, err
}

func (c *counted) Write(b []byte) (int, error) {
	k, err := c.Conn.Write(b)
	c.bytes.Add(int64(k))
	return k, err
}

// succeeding is a prober whose probes have succeeded.
type succeeding struct{}

func (succeeding) Set(*corev1.Pod, []probe.Target)            {}
func (succeeding) Results(types.UID) map[string]status.Probes { return nil }
func (succeeding) Remove(types.UID)                           {}

type noHooks struct{}

func (noHooks) Run(context.Context, *corev1.Pod, *corev1.Container, string, string, *corev1.LifecycleHandler) error {
	return nil
}

// Options of many nodes.
type Options struct {
	Servers []string // MQTT URLs
	Token   string
	Dir     string // for their databases; in memory (tmpfs), or the disk is what is measured
	Count   int
	Logger  *slog.Logger
}

// Nodes are many nodes.
type Nodes struct {
	o     Options
	nodes []*node
}

// New makes the nodes; nothing is opened.
func New(o Options) *Nodes {
	all := &Nodes{o: o}
	log := cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	for i := range o.Count {
		all.nodes = append(all.nodes, &node{name: fmt.Sprintf("node-%04d", i), ip: fmt.Sprintf("10.200.%d.%d", i/250, 1+i%250), log: log, bytes: new(atomic.Int64)})
	}
	return all
}

// Run runs the nodes until ctx is done; the first that cannot go on ends them all. They join as boards do after a power
// cut: all at once.
func (all *Nodes) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, n := range all.nodes {
		if err := n.open(ctx, all.o); err != nil {
			cancel(err)
			break
		}
		wg.Go(func() {
			defer n.db.Close()
			if err := n.run(ctx); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != context.Canceled {
		return err
	}
	return nil
}

// Bytes are what crossed the links of all nodes so far.
func (all *Nodes) Bytes() int64 {
	total := int64(0)
	for _, n := range all.nodes {
		total += n.bytes.Load()
	}
	return total
}
