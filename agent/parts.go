package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/apiproxy"
	"bramble.dev/agent/clock"
	"bramble.dev/agent/control"
	"bramble.dev/agent/events"
	"bramble.dev/agent/status"
	"bramble.dev/mesh"
	"bramble.dev/runtime/engine"
	"bramble.dev/storage"
)

// openParts opens runtime, mesh and storage.
func (a *agent) openParts(ctx context.Context) error {
	c := &a.config
	instance := Instance(c.DataDir)
	e, err := engine.Open(ctx, engine.Config{
		Dir: c.dir("runtime"), Runc: c.Runc, Shim: c.Shim, Pause: c.Pause, CgroupParent: "/bramble-" + instance,
		Mirrors: c.Mirrors, InsecureRegistries: c.InsecureRegistries, SeccompDir: c.dir("seccomp"), Logger: a.log,
	})
	if err != nil {
		return err
	}
	a.closers = append(a.closers, e.Close)
	store := &images{e.Images(), e.RemoveImage, func() {
		a.self.poke()
		a.pods.ObjectsChanged("")
	}}
	a.runtime, a.images = &runtime{Engine: e}, nodeImages{store}
	word, err := board(c.dir("mesh"))
	if err != nil {
		return err
	}
	m, err := mesh.Open(ctx, mesh.Options{Instance: instance, Board: word, Dir: c.dir("mesh"), Logger: a.log, Announces: a.announces, Unasked: a.unasked})
	if err != nil {
		return err
	}
	a.closers = append(a.closers, m.Close)
	a.self = &self{
		config: *c, images: a.images.List, offers: store.offers, report: a.reports.node, log: a.log, wake: make(chan struct{}, 1), machine: status.Look(c.dir()),
		moved: func() {
			a.uplink.Moved()
			a.network.poke()
			a.pods.ObjectsChanged("") // their status tells it
		},
	}
	a.network = &network{
		Mesh: m, catalog: a.catalog, node: c.NodeName, labels: c.Labels, nodeIP: a.self.address, proxy: a.proxy, log: a.log, changed: make(chan struct{}, 1),
		resolvConf: "/etc/resolv.conf", settled: func(error) { a.self.poke() }, told: func() { a.self.poke() }, ports: ports{proc: "/proc"},
	}
	a.openIngress()
	a.self.network = a.network
	a.self.find()
	if !a.self.address().IsValid() {
		a.log.Warn("the node has no address yet; it is looked for")
	}
	volumes, err := storage.Open(c.dir("volumes"), c.dir(localVolumes), objects{a.catalog, a.credentials, func() corev1.ResourceList { return a.self.allocatable() }, e.ShowImage}, a.log)
	if err != nil {
		return err
	}
	a.volumes = volumes
	a.outages = func(ctx context.Context) { volumes.Watch(ctx, a.outage) }
	a.openShortage(e, volumes)
	a.self.pressure = a.shortage.Pressure
	a.removals = &removals{catalog: a.catalog, remove: volumes.Remove, report: a.reports.volume, log: a.log, changed: make(chan struct{}, 1)}
	return nil
}

// announces tells a Service's reader which node has its address.
func (a *agent) announces(address netip.Addr, on string) {
	services, _ := a.catalog.Services()
	for _, s := range services {
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IP == address.String() {
				ref := corev1.ObjectReference{Kind: "Service", APIVersion: "v1", Namespace: s.Namespace, Name: s.Name, UID: s.UID}
				a.events.Eventf(ref, corev1.EventTypeNormal, events.AddressAnnounced, "Node %s announces %s on %s", a.config.NodeName, address, on)
			}
		}
	}
}

// unasked tells a Service's reader that load balancers outside cannot ask this node for it, in upstream's words.
func (a *agent) unasked(s *corev1.Service, err error) {
	ref := corev1.ObjectReference{Kind: "Service", APIVersion: "v1", Namespace: s.Namespace, Name: s.Name, UID: s.UID}
	a.events.Eventf(ref, corev1.EventTypeWarning, events.HealthcheckFailed, "node %s failed to start healthcheck %q on port %d: %v",
		a.config.NodeName, s.Namespace+"/"+s.Name, s.Spec.HealthCheckNodePort, err)
}

// controlled is what the board's own commands may do with images.
func (a *agent) controlled() control.Images { return a.images.(nodeImages).images }

// apiURL is a name that the server's certificate has, whatever its address is.
const apiURL = "https://kubernetes.default.svc"

// apiClient reaches the API as this node.
func apiClient(u server, p *apiproxy.Proxy, floor *clock.Floor) *http.Client {
	return &http.Client{Transport: &nodeTransport{u: u, p: p, now: floor.Now}}
}

// nodeTransport is a transport with the node's certificate, once the node has one.
type nodeTransport struct {
	u   server
	p   *apiproxy.Proxy
	now func() time.Time

	mu   sync.Mutex
	next *http.Transport
}

func (t *nodeTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	next, err := t.transport()
	if err != nil {
		return nil, err
	}
	return next.RoundTrip(r)
}

func (t *nodeTransport) transport() (*http.Transport, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next != nil {
		return t.next, nil
	}
	ca := t.u.CACertPEM()
	if ca == nil {
		return nil, errors.New("this node has not joined a cluster yet")
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("the cluster's authority cannot be read")
	}
	t.next = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return t.p.Connect(ctx) },
		TLSClientConfig: &tls.Config{
			RootCAs: roots, MinVersion: tls.VersionTLS12, Time: t.now,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return t.u.Certificate() },
		},
		MaxIdleConns: 2, IdleConnTimeout: 30 * time.Second, // a connection that idles costs traffic
	}
	return t.next, nil
}
