package aggregator

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/informers"
	apiregistrationclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	listers "k8s.io/kube-aggregator/pkg/client/listers/apiregistration/v1"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"bramble.dev/server/ondemand"
	"bramble.dev/server/store"
)

// Config is what the API gives.
type Config struct {
	Store     store.Store
	Prefix    string // where APIServices lie in the store
	Client    apiregistrationclient.APIServicesGetter
	Informers informers.SharedInformerFactory // of Services and EndpointSlices
	Endpoints proxy.EndpointSliceGetter
	Services  webhook.ServiceResolver // where a Service of the cluster is served
	// Dial connects to an address of the cluster's network, and Certificate proves to an aggregated server that a request comes from here.
	Dial        func(ctx context.Context, network, address string) (net.Conn, error)
	Certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	Groups      Groups                     // the list of groups
	Discovery   aggregated.ResourceManager // of what lies below /apis
	BuiltIn     func(group string) bool    // whether a group is the API's own
	Logger      *slog.Logger
}

// Groups is the list of groups, as upstream's handler of it has it.
type Groups interface {
	AddGroup(metav1.APIGroup)
	RemoveGroup(name string)
}

// Server gives requests to the servers that APIServices name.
type Server struct {
	c      Config
	lister listers.APIServiceLister
	part   *ondemand.Part[*running]

	mu    sync.Mutex
	at    int64 // the change of the APIServices up to which needs is known
	needs bool
}

// New makes a server. Nothing runs until an APIService names a Service.
func New(c Config) *Server {
	_, all := follow(context.Background(), c.Store, c.Prefix, c.Logger)
	s := &Server{c: c, lister: listers.NewAPIServiceLister(all.GetIndexer())}
	s.part = &ondemand.Part[*running]{Store: c.Store, Prefix: c.Prefix, Needed: s.needed, Start: s.c.start, Failed: func(err error) {
		c.Logger.Error("following the APIServices failed", "err", err)
	}}
	return s
}

// Run starts what asks other servers with the first APIService that names a Service, and stops it after the last, until ctx is done. A
// request does not wait for it: it starts what it needs by itself.
func (s *Server) Run(ctx context.Context) { s.part.Run(ctx) }

// Close stops everything for good.
func (s *Server) Close() { s.part.Close() }

// needed tells whether an APIService names a Service, or did and is not settled. It reads them only after one has changed.
func (s *Server) needed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, changed := s.c.Store.Stand(s.c.Prefix)
	if changed == s.at {
		return s.needs
	}
	all, err := s.lister.List(labels.Everything())
	if err != nil {
		return s.needs // the store is about to end
	}
	s.at, s.needs = changed, false
	for _, a := range all {
		s.needs = s.needs || a.Spec.Service != nil || !settled(a)
	}
	return s.needs
}

// GroupVersions are those that other servers answer, whether they are there or away.
func (s *Server) GroupVersions() map[schema.GroupVersion]bool {
	if !s.needed() {
		return nil
	}
	all, err := s.lister.List(labels.Everything())
	if err != nil {
		return nil // the store is about to end
	}
	out := map[schema.GroupVersion]bool{}
	for _, a := range all {
		if a.Spec.Service != nil && !s.c.BuiltIn(a.Spec.Group) {
			out[schema.GroupVersion{Group: a.Spec.Group, Version: a.Spec.Version}] = true
		}
	}
	return out
}

// current gives what runs, after it has taken in all APIServices that the store holds; nil when there is nothing to run.
func (s *Server) current(ctx context.Context) (*running, error) {
	r, _, err := s.part.Current(ctx, func(ctx context.Context, r *running) error { return r.current(ctx) })
	return r, err
}

// Current waits until discovery says what the APIServices that the store holds say.
func (s *Server) Current(ctx context.Context) error {
	_, err := s.current(ctx)
	return err
}

// Serve answers a request for what another server has, and for the document of a group of which another server has a version. It tells
// whether it did.
func (s *Server) Serve(w http.ResponseWriter, req *http.Request) bool {
	path := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	if path[0] != "apis" || len(path) < 2 || s.c.BuiltIn(path[1]) {
		return false
	}
	r, err := s.current(req.Context())
	if err != nil {
		responsewriters.ErrorNegotiated(apierrors.NewServiceUnavailable("aggregated APIs: "+err.Error()), legacyscheme.Codecs, schema.GroupVersion{}, w, req)
		return true
	}
	if r == nil {
		return false
	}
	h := r.handler(path[1:])
	if h == nil {
		return false
	}
	h.ServeHTTP(w, req)
	return true
}
