package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"

	"bramble.dev/link"
	"bramble.dev/link/carrier"
	"bramble.dev/server/api"
	"bramble.dev/server/api/audit"
	"bramble.dev/server/api/openid"
	"bramble.dev/server/auth"
	"bramble.dev/server/broker"
	"bramble.dev/server/cache"
	"bramble.dev/server/controllers/loadbalancer"
	"bramble.dev/server/store"
	"bramble.dev/server/store/etcd"
)

// Config is what an operator decides. Empty fields are errors, but for those that say otherwise.
type Config struct {
	DataDir    string
	APIListen  string // host:port; an empty host is all addresses
	MQTTListen string // host:port of the embedded broker
	Broker     string // URL of a broker that others run, in place of the embedded one; optional
	BrokerCA   string // PEM file with the authorities of that broker's certificate; optional: those that this machine knows
	// Etcd is where the objects are that several servers share; nil: in a file of DataDir.
	Etcd      *etcd.Options
	Advertise string // address under which nodes and pods reach the API; optional
	Names     []string
	Domain    string // of the cluster's DNS names
	Version   string // of Bramble, for nodes to compare theirs with
	PodCIDR   netip.Prefix
	// ServiceCIDR is where Services get their addresses.
	ServiceCIDR netip.Prefix
	// AcrossSites lets pods' packets travel between nodes of different sites, unencrypted as they are.
	AcrossSites bool
	// DirectRoutes spares hosts on one link the tunnel.
	DirectRoutes bool
	// LoadBalancers is what Services of type LoadBalancer get their addresses from; without any, the nodes' own are told.
	LoadBalancers loadbalancer.Pool
	// Audit is the log of who asked the API for what; off by default.
	Audit audit.Options
	// Starting is told when a large part of the API starts, after the server is ready, with the first object that needs it; nil: nobody.
	Starting func()
	// OpenID names issuers outside of the cluster whose tokens let in; none by default.
	OpenID openid.Options
	// Ready is called once, when the API answers and everything works behind it; optional.
	Ready  func(Info)
	Logger *slog.Logger
}

// Info is what others need to reach a running server.
type Info struct {
	APIURL     string // https://host:port as this machine reaches it
	MQTTURL    string // of the embedded broker, or the outside one
	CAHash     string
	Kubeconfig string // path
	Admin      kubernetes.Interface
}

// The dispatcher and the election write as what they are; mastersGroup may do everything.
const (
	dispatchUser = "system:bramble:dispatch"
	serverUser   = "system:bramble:server"
	mastersGroup = "system:masters"
)

func serverDir(dataDir string) string    { return filepath.Join(dataDir, "server") }
func databasePath(dataDir string) string { return filepath.Join(serverDir(dataDir), "state.db") }
func pkiDir(dataDir string) string       { return filepath.Join(serverDir(dataDir), "pki") }

// AddSecretsKey gives the instance in dataDir a new key that encrypts its Secrets from the server's next start on.
func AddSecretsKey(dataDir string) error { return auth.AddSecretsKey(pkiDir(dataDir)) }

// Run serves until ctx ends or a part fails.
func Run(ctx context.Context, c Config) error {
	if err := c.check(); err != nil {
		return err
	}
	dir := serverDir(c.DataDir)
	// Where a server has been, another that runs there says more than a taken port. A new folder is made when the ports are
	// ours: a taken one is the commonest mistake, and leaves nothing behind.
	fresh := true
	if _, err := os.Stat(dir); err == nil {
		fresh = false
		held, err := lock(dir)
		if err != nil {
			return err
		}
		defer held.Release()
	}
	apiListener, err := listen("--api-listen", c.APIListen)
	if err != nil {
		return err
	}
	defer apiListener.Close()
	var mqttListener net.Listener
	if c.Broker == "" {
		if mqttListener, err = listen("--mqtt-listen", c.MQTTListen); err != nil {
			return err
		}
		defer mqttListener.Close()
	}
	if fresh {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("--data-dir: %w", err)
		}
		held, err := lock(dir)
		if err != nil {
			return err
		}
		defer held.Release()
	}
	objects, pki, err := c.open(ctx)
	if err != nil {
		return err
	}
	err = run(ctx, c, objects, pki, apiListener, mqttListener)
	return errors.Join(err, objects.Close())
}

// open opens the store, and the keys that belong to it.
func (c *Config) open(ctx context.Context) (store.Store, *auth.PKI, error) {
	if c.Etcd != nil {
		return c.openShared(ctx)
	}
	if err := checkNotShared(c.DataDir); err != nil {
		return nil, nil, err
	}
	db, err := store.Open(ctx, store.Options{Path: databasePath(c.DataDir), Logger: c.Logger})
	if err != nil {
		return nil, nil, fmt.Errorf("open the store: %w", err)
	}
	pki, err := auth.OpenPKI(pkiDir(c.DataDir), auth.PKIOptions{})
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return db, pki, nil
}

// run wires the parts. The order is that of the flow: what is written, who reads it, who tells the nodes.
func run(ctx context.Context, c Config, objects store.Store, pki *auth.PKI, apiListener, mqttListener net.Listener) error {
	bound := netip.MustParseAddrPort(apiListener.Addr().String())
	address, err := c.advertise(bound)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	dialer := &nodeDialer{}
	var others *election // nil: there are none
	var leads func() bool
	if c.Etcd != nil {
		others = newElection(netip.AddrPortFrom(address, bound.Port()).String(), c.Logger.With("part", "election"))
		leads, dialer.elsewhere = others.holds, others.dial(pki)
	}
	serving, err := api.New(ctx, api.Config{
		Store: objects, PKI: pki, Listener: apiListener, AdvertiseAddress: address, ServiceCIDR: c.ServiceCIDR,
		Names:      append([]string{"kubernetes.default.svc." + c.Domain}, c.Names...), // "cluster.local" is always there
		NodeDialer: dialer.kubelet, PodDialer: dialer.pod, Leads: leads, Audit: c.Audit, OpenID: c.OpenID, Starting: c.Starting, Logger: c.Logger.With("part", "api"),
	})
	if err != nil {
		return err
	}
	defer serving.Close() // which its Run has done, if it comes to that
	caches := cache.NewSet(source{objects}, serving.Prefix, c.Logger.With("part", "cache"))
	defer caches.Close()

	transport, brokerHere, brokerElsewhere, err := c.transport(pki, mqttListener, address)
	if err != nil {
		return err
	}
	cluster, err := c.cluster(pki.CAHash(), objects.Incarnation(), netip.AddrPortFrom(address, bound.Port()), brokerElsewhere)
	if err != nil {
		return err
	}
	dialer.nodes = caches.Nodes()
	info := Info{APIURL: "https://" + local(bound).String(), MQTTURL: brokerHere, CAHash: pki.CAHash(), Kubeconfig: filepath.Join(c.DataDir, "kubeconfig"), Admin: clientOf(serving, "admin", mastersGroup)}
	if err := pki.WriteKubeconfig(info.Kubeconfig, info.APIURL); err != nil { // before anything runs that would have to be waited for
		return err
	}
	if others != nil {
		transport = fenced{transport, others.holds}
	}
	d := duty{Config: c, pki: pki, api: serving, address: apiListener.Addr(), caches: caches, transport: transport, cluster: cluster, dialer: dialer}
	answering, err := d.attend(ctx, group, others)
	if err != nil {
		return err
	}
	group.Go(func() error { return serving.Run(answering) })
	group.Go(func() error {
		if err := pki.KeepKubeconfig(ctx, info.Kubeconfig, info.APIURL); err != nil {
			c.Logger.Error("the administrator's kubeconfig is not renewed until the server starts anew", "err", err)
		}
		return nil
	})

	c.Logger.Info("the server is ready", "api", info.APIURL, "mqtt", info.MQTTURL, "kubeconfig", info.Kubeconfig)
	if c.Ready != nil {
		c.Ready(info)
	}
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// transport is the embedded broker, or a client of an outside one, and the URLs under which an agent on this machine
// and others find it.
func (c *Config) transport(pki *auth.PKI, l net.Listener, address netip.Addr) (t broker.Transport, here, elsewhere string, err error) {
	cluster := link.ClusterID(pki.CAHash())
	log := c.Logger.With("part", "broker")
	if c.Broker != "" {
		security, err := c.brokerTLS()
		if err != nil {
			return nil, "", "", err
		}
		t, err = broker.Outside(broker.OutsideConfig{URL: c.Broker, TLS: security, Cluster: cluster, Logger: log})
		return t, c.Broker, c.Broker, err
	}
	cert, err := pki.ServingCertificate(append([]string{"localhost"}, c.Names...), []net.IP{net.IP(address.AsSlice()), net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, "", "", err
	}
	t, err = broker.Embedded(broker.EmbeddedConfig{Listener: l, Certificate: cert, Roots: pki.CAPool(), Cluster: cluster, Logger: log})
	bound := netip.MustParseAddrPort(l.Addr().String())
	return t, "mqtts://" + local(bound).String(), "mqtts://" + netip.AddrPortFrom(address, bound.Port()).String(), err
}

// brokerTLS is how the server judges a broker that others run; nil: by what this machine knows.
func (c *Config) brokerTLS() (*tls.Config, error) {
	if c.BrokerCA == "" {
		return nil, nil
	}
	roots, err := carrier.Authorities(c.BrokerCA)
	if err != nil {
		return nil, fmt.Errorf("--broker-ca: %w", err)
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

func (c *Config) advertise(bound netip.AddrPort) (netip.Addr, error) {
	if c.Advertise == "" {
		return advertised(bound)
	}
	a, err := netip.ParseAddr(c.Advertise)
	if err != nil {
		return a, fmt.Errorf("--advertise-address: %w", err)
	}
	return a, nil
}

// local is how this machine reaches a listener of its own.
func local(bound netip.AddrPort) netip.AddrPort {
	if bound.Addr().IsUnspecified() {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), bound.Port())
	}
	return bound
}
