package server

import (
	"context"
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
	"bramble.dev/server/api"
	"bramble.dev/server/api/audit"
	"bramble.dev/server/auth"
	"bramble.dev/server/broker"
	"bramble.dev/server/cache"
	"bramble.dev/server/controllers"
	"bramble.dev/server/controllers/loadbalancer"
	"bramble.dev/server/dispatch"
	"bramble.dev/server/scheduler"
	"bramble.dev/server/store"
)

// Config is what an operator decides. Empty fields are errors, but for those that say otherwise.
type Config struct {
	DataDir    string
	APIListen  string // host:port; an empty host is all addresses
	MQTTListen string // host:port of the embedded broker
	Broker     string // URL of a broker that others run, in place of the embedded one; optional
	Advertise  string // address under which nodes and pods reach the API; optional
	Names      []string
	Domain     string // of the cluster's DNS names
	Version    string // of Bramble, for nodes to compare theirs with
	PodCIDR    netip.Prefix
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

// The dispatcher writes as what it is; mastersGroup may do everything.
const (
	dispatchUser = "system:bramble:dispatch"
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
	db, err := store.Open(ctx, store.Options{Path: databasePath(c.DataDir), Logger: c.Logger})
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	err = run(ctx, c, db, apiListener, mqttListener)
	return errors.Join(err, db.Close())
}

// run wires the parts. The order is that of the flow: what is written, who reads it, who tells the nodes.
func run(ctx context.Context, c Config, db store.Store, apiListener, mqttListener net.Listener) error {
	pki, err := auth.OpenPKI(pkiDir(c.DataDir), auth.PKIOptions{})
	if err != nil {
		return err
	}
	bound := netip.MustParseAddrPort(apiListener.Addr().String())
	address, err := c.advertise(bound)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	dialer := &nodeDialer{}
	serving, err := api.New(ctx, api.Config{
		Store: db, PKI: pki, Listener: apiListener, AdvertiseAddress: address, ServiceCIDR: c.ServiceCIDR,
		Names:      append([]string{"kubernetes.default.svc." + c.Domain}, c.Names...), // "cluster.local" is always there
		NodeDialer: dialer.kubelet, PodDialer: dialer.pod, Audit: c.Audit, Logger: c.Logger.With("part", "api"),
	})
	if err != nil {
		return err
	}
	defer serving.Close() // which its Run has done, if it comes to that
	client := func(user string, groups ...string) kubernetes.Interface {
		return kubernetes.NewForConfigOrDie(serving.ClientConfig(user, groups...))
	}
	caches := cache.NewSet(source{db}, serving.Prefix, c.Logger.With("part", "cache"))
	defer caches.Close()

	transport, brokerHere, brokerElsewhere, err := c.transport(pki, mqttListener, address)
	if err != nil {
		return err
	}
	cluster, err := c.cluster(pki.CAHash(), db.Incarnation(), netip.AddrPortFrom(address, bound.Port()), brokerElsewhere)
	if err != nil {
		return err
	}
	dispatcher, err := newDispatcher(dispatch.Config{
		Caches: caches, Client: client(dispatchUser, mastersGroup), Transport: transport, Cluster: cluster, Logger: c.Logger.With("part", "dispatch"),
	}, pki, apiListener.Addr())
	if err != nil {
		return err
	}
	dialer.dispatcher, dialer.nodes = dispatcher, caches.Nodes()
	info := Info{APIURL: "https://" + local(bound).String(), MQTTURL: brokerHere, CAHash: pki.CAHash(), Kubeconfig: filepath.Join(c.DataDir, "kubeconfig"), Admin: client("admin", mastersGroup)}
	if err := pki.WriteKubeconfig(info.Kubeconfig, info.APIURL); err != nil { // before anything runs that would have to be waited for
		return err
	}
	group.Go(func() error { return serving.Run(ctx) })
	group.Go(func() error { return dispatcher.Run(ctx) })
	group.Go(func() error { return controllers.Run(ctx, controllerDependencies(c, pki, caches, serving, dispatcher)) })
	group.Go(func() error { return scheduler.Run(ctx, schedulerConfig(c, caches, cluster, client)) })
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
		t, err = broker.Outside(broker.OutsideConfig{URL: c.Broker, Cluster: cluster, Logger: log})
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
