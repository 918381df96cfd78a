package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	apiregistration "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/capabilities"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"bramble.dev/server/admission"
	"bramble.dev/server/api/aggregator"
	"bramble.dev/server/api/audit"
	"bramble.dev/server/api/customresources"
	"bramble.dev/server/api/fairness"
	"bramble.dev/server/api/informer"
	"bramble.dev/server/api/openid"
	"bramble.dev/server/auth"
	"bramble.dev/server/store"
)

// Config is what a server is made of.
type Config struct {
	Store            store.Store
	PKI              *auth.PKI
	Listener         net.Listener // nil: in process only, until Serve is called
	AdvertiseAddress netip.Addr   // where nodes and pods reach the API; the endpoint of default/kubernetes
	ServiceCIDR      netip.Prefix
	Names            []string // further names and addresses by which clients reach the API
	// NodeDialer connects to a node's kubelet API through its link; PodDialer to an address in the cluster's network.
	NodeDialer func(ctx context.Context, node string) (net.Conn, error)
	PodDialer  func(ctx context.Context, network, address string) (net.Conn, error)
	// Leads says whether this server is, of several on one store, the one that does what is to be done once; nil: it is alone.
	Leads    func() bool
	Audit    audit.Options  // the log of who asked for what
	OpenID   openid.Options // issuers outside of the cluster whose tokens let in
	Starting func()         // told when what serves custom resources starts, which makes much that stays; nil: nobody
	Patience time.Duration  // how long what a client is sent may lie unread, until it is cut off; 0: a minute
	Logger   *slog.Logger
}

// severalServers says whether other servers may be at work on the same store.
func (c *Config) severalServers() bool { return c.Leads != nil }

// leads says whether what is to be done once is to be done here.
func (c *Config) leads() bool { return c.Leads == nil || c.Leads() }

// Server serves the Kubernetes API.
type Server struct {
	config    Config
	log       *slog.Logger
	wiring    *wiring
	inProcess *inProcess
	admit     *admission.Admission
	audit     *audit.Log
	turns     *fairness.Fairness
	issuers   *openid.Issuers
	custom    *customresources.Server
	others    *aggregator.Server
	local     []aggregator.Local // the group versions that are built in
	handler   http.Handler       // for the network
	ready     atomic.Bool
	alone     sync.Once // it was said that only this machine reaches the API
	cancel    context.CancelFunc

	puttingBack sync.Mutex
	missing     []string // what could not be seeded yet
}

// wiring is what the parts of the API are given to work with.
type wiring struct {
	log           *slog.Logger
	stores        *stores
	client        kubernetes.Interface              // as the API itself, in process
	apiServices   apiregistration.APIServicesGetter // the same
	informers     *informer.Factory
	authenticator authenticator.Request
	authorizer    authorizer.Authorizer
	rules         authorizer.RuleResolver
	tokens        serviceaccount.TokenGenerator
	lasting       serviceaccount.TokenGenerator // of tokens in Secrets
	keys          serviceaccount.PublicKeysGetter
	clusterIPs    *ipallocator.MetaAllocator
	nodePorts     *portallocator.PortAllocator
	kubelets      *kubelets
	podTransport  *http.Transport
	storages      map[schema.GroupVersion]map[string]rest.Storage
}

// nodePorts are those of upstream by default.
var nodePorts = utilnet.PortRange{Base: 30000, Size: 2768}

// New wires everything and seeds the store with what every cluster has. What it starts ends when Run returns, or with Close: requests
// that are being answered when the server stops need it yet.
func New(ctx context.Context, c Config) (*Server, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Patience = cmp.Or(c.Patience, defaultPatience)
	settle.Do(func() { prepareUpstream(c.Logger) })
	until := ctx
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer context.AfterFunc(until, cancel)() // while it is wired
	s := &Server{config: c, log: c.Logger, inProcess: &inProcess{}, cancel: cancel}
	if err := s.build(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("api: %w", err)
	}
	if err := s.seed(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("api: %w", err)
	}
	s.ready.Store(true)
	return s, nil
}

var settle sync.Once

// prepareUpstream sets what upstream keeps in the process and not in a server.
func prepareUpstream(log *slog.Logger) {
	utilruntime.ReallyCrash = false // a panic in a handler is that request's alone
	capabilities.Setup(true, 0)     // privileged containers may be asked for; PodSecurity says where
	routeKlog(log)
	// What upstream's handlers hold for impossible ends their process (klog.Fatal), whoever asked for it.
	klog.OsExit = func(code int) {
		panic(fmt.Sprintf("upstream's code would have ended the process with status %d", code))
	}
}

func (s *Server) build(ctx context.Context) (err error) {
	c := s.config
	w := &wiring{log: s.log}
	s.wiring = w
	if s.audit, err = audit.Open(c.Audit, s.log); err != nil {
		return err
	}
	if w.stores, err = newStores(c.Store, c.PKI.SecretsKeys()); err != nil {
		return err
	}
	if w.client, err = kubernetes.NewForConfig(s.ClientConfig("system:apiserver", user.SystemPrivilegedGroup)); err != nil {
		return err
	}
	if w.apiServices, err = apiregistration.NewForConfig(s.ClientConfig("system:apiserver", user.SystemPrivilegedGroup)); err != nil {
		return err
	}
	w.informers = informer.NewFactory(ctx, c.Store, legacyscheme.Scheme, w.stores.prefix, s.log, informer.Keep(keptKinds...), informer.Transform(w.stores.transformer))
	if w.keys, err = serviceaccount.StaticPublicKeysGetter([]any{c.PKI.ServiceAccountKey().Public()}); err != nil {
		return fmt.Errorf("service account keys: %w", err)
	}
	if w.tokens, err = serviceaccount.JWTTokenGenerator(Issuer, c.PKI.ServiceAccountKey()); err != nil {
		return fmt.Errorf("service account tokens: %w", err)
	}
	if w.lasting, err = serviceaccount.JWTTokenGenerator(serviceaccount.LegacyIssuer, c.PKI.ServiceAccountKey()); err != nil {
		return fmt.Errorf("service account tokens: %w", err)
	}
	outside, err := c.OpenID.Load(Issuer, serviceaccount.LegacyIssuer)
	if err != nil {
		return err
	}
	if s.issuers, err = outside.Issuers(ctx, audiences, s.address(), s.log); err != nil {
		return fmt.Errorf("authentication: %w", err)
	}
	if w.authenticator, err = newAuthenticator(c.PKI, w.keys, w.informers, w.client, s.issuers, outside.Anonymous()); err != nil {
		return err
	}
	if w.authorizer, w.rules, err = newAuthorizer(w.informers); err != nil {
		return fmt.Errorf("authorization: %w", err)
	}
	w.kubelets = newKubelets(w.informers.Core().V1().Nodes().Lister(), c.NodeDialer)
	w.podTransport = newPodTransport(c.PodDialer)
	if w.clusterIPs, err = newClusterIPs(w.client, w.informers, c.ServiceCIDR); err != nil {
		return fmt.Errorf("cluster IPs: %w", err)
	}
	if w.nodePorts, err = s.newNodePorts(); err != nil {
		return err
	}
	if s.admit, err = s.newAdmission(ctx); err != nil {
		return err
	}
	s.turns = fairness.New(fairness.Config{
		Informers: w.informers, Client: w.client.FlowcontrolV1(), Seats: maxRequests, Wait: requestTimeout / 4, Size: w.stores.size, Logger: s.log,
	})
	routes := &router{}
	i := &installer{
		wiring: w, admit: s.admit.Chain, schemes: map[*runtime.Scheme]*encoding{}, routes: routes, discovery: newDiscovery(s.address(), routes),
		equivalent: runtime.NewEquivalentResourceRegistryWithIdentity(w.stores.prefix), made: map[schema.GroupVersion]map[string]rest.Storage{},
	}
	if err := i.install(); err != nil {
		return err
	}
	i.discovery.serve()
	if err := serveIssuer(routes, w.keys); err != nil {
		return err
	}
	w.storages = i.made
	s.local = i.local
	s.custom = s.newCustomResources(i.discovery)
	s.others = s.newAggregator(i.discovery)
	mux := s.mux(routes, i.groupVersions())
	s.inProcess.handler = local(mux, w.authorizer, s.audit)
	s.turns.Start(ctx)
	s.handler = remote(mux, w.authenticator, w.authorizer, s.turns, s.audit, c.Patience)
	return nil
}

// newSerializer encodes long lists piece by piece, so that their text is never in memory as a whole.
func newSerializer(s *runtime.Scheme) runtime.NegotiatedSerializer {
	return serializer.NewCodecFactory(s, serializer.WithStreamingCollectionEncodingToJSON(), serializer.WithStreamingCollectionEncodingToProtobuf())
}

// Prefix is the store's key prefix of a resource, for caches: "/registry/deployments".
func (s *Server) Prefix(gr schema.GroupResource) string { return s.wiring.stores.prefix(gr) }

// Elsewhere gives the group versions that APIServices give to other servers.
func (s *Server) Elsewhere() map[schema.GroupVersion]bool { return s.others.GroupVersions() }

// Run serves the listener until ctx is done, and returns when every request has ended. What requests need runs as long.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	needed, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	parts := []func(context.Context) error{
		s.keepSeeds,
		s.keepClusterIPs,
		func(ctx context.Context) error { s.admit.Run(ctx); return nil },
		func(ctx context.Context) error { s.custom.Run(ctx); return nil },
		func(ctx context.Context) error { s.others.Run(ctx); return nil },
	}
	if s.config.OpenID.File != "" {
		parts = append(parts, func(ctx context.Context) error { s.issuers.Follow(ctx); return nil })
	}
	if len(s.config.PKI.SecretsKeys()) > 1 {
		parts = append(parts, func(ctx context.Context) error { s.renewSecrets(ctx); <-ctx.Done(); return nil })
	}
	failed, served := make(chan error, len(parts)), make(chan error, 1)
	for _, part := range parts {
		go func() { failed <- part(needed) }()
	}
	go func() {
		if s.config.Listener == nil {
			<-ctx.Done()
			served <- nil
			return
		}
		served <- s.Serve(ctx, s.config.Listener)
	}()
	running := len(parts)
	var err error
	select {
	case err = <-failed:
		running--
		stop()
		err = errors.Join(err, <-served)
	case err = <-served:
	}
	end()
	for range running {
		err = errors.Join(err, <-failed)
	}
	return err
}

// Close ends what New has started. Run does it by itself.
func (s *Server) Close() {
	s.ready.Store(false)
	s.cancel()
	w := s.wiring
	if w == nil {
		return
	}
	for _, storages := range w.storages {
		for _, st := range storages {
			st.Destroy()
		}
	}
	w.storages = nil
	if s.custom != nil {
		s.custom.Close()
	}
	if s.others != nil {
		s.others.Close()
	}
	if s.admit != nil {
		s.admit.Close()
	}
	if w.clusterIPs != nil {
		w.clusterIPs.Destroy()
		w.clusterIPs = nil
	}
	if s.turns != nil {
		s.turns.Wait()
	}
	if w.informers != nil {
		w.informers.Wait()
	}
	if err := s.audit.Close(); err != nil {
		s.log.Error("the audit log was not closed", "err", err)
	}
}

// address is the host and port that clients in the cluster use.
func (s *Server) address() string {
	return net.JoinHostPort(s.config.AdvertiseAddress.String(), fmt.Sprint(s.port()))
}

func (s *Server) port() int {
	if s.config.Listener != nil {
		if a, ok := s.config.Listener.Addr().(*net.TCPAddr); ok {
			return a.Port
		}
	}
	return 6443
}
