package customresources

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/rest"

	"k8s.io/apiextensions-apiserver/pkg/apiserver"

	"bramble.dev/server/ondemand"
	"bramble.dev/server/store"
)

// Config is what the API gives.
type Config struct {
	Store      store.Store
	Prefix     string                    // where the definitions lie in the store
	Options    generic.RESTOptionsGetter // for the storages of custom resources
	Client     *rest.Config              // of the API itself, in process
	Admit      admission.Interface
	Authorizer authorizer.UnconditionalAuthorizer
	// Of conversion webhooks: where a Service of the cluster is served, with what it is asked, and the way to it.
	Services    webhook.ServiceResolver
	Credentials webhook.AuthenticationInfoResolverWrapper
	Groups      Groups                     // the list of groups
	Discovery   aggregated.ResourceManager // of what lies below /apis
	// Register keeps the APIServices of what the definitions serve until ctx is done; changed tells that this may be something else.
	Register func(ctx context.Context, served func() []schema.GroupVersion, changed <-chan struct{})
	BuiltIn  func(group string) bool // whether a group is the API's own
	NotFound http.Handler            // for what is not there

	Starting func() // told when what serves them starts; nil: nobody

	RequestTimeout time.Duration
	MinWatch       time.Duration
	MaxBodyBytes   int64
	Logger         *slog.Logger
}

// Groups is upstream's list of groups.
type Groups interface {
	AddGroup(metav1.APIGroup)
	RemoveGroup(name string)
}

// Server serves custom resources.
type Server struct {
	c    Config
	part *ondemand.Part[*running]
}

// New makes a server. Nothing runs until there is a definition.
func New(c Config) *Server {
	s := &Server{c: c}
	s.part = &ondemand.Part[*running]{Store: c.Store, Prefix: c.Prefix, Start: s.c.start, Failed: func(err error) {
		c.Logger.Error("following the definitions of custom resources failed", "err", err)
	}}
	return s
}

// Run starts what serves custom resources with the first definition, and stops it after the last, until ctx is done. A request does
// not wait for it: it starts what it needs by itself.
func (s *Server) Run(ctx context.Context) { s.part.Run(ctx) }

// Close stops everything for good.
func (s *Server) Close() { s.part.Close() }

// current gives what runs, after it has taken in all definitions that the store holds; nil when there is none.
func (s *Server) current(ctx context.Context) (*running, error) {
	r, _, err := s.part.Current(ctx, func(ctx context.Context, r *running) error { return r.definitions.current(ctx) })
	return r, err
}

// Current waits until discovery says what the definitions that the store holds say.
func (s *Server) Current(ctx context.Context) error {
	_, err := s.current(ctx)
	return err
}

// ServeHTTP answers requests for custom resources, and for the documents of discovery of their groups and versions.
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	path := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	if path[0] != "apis" || len(path) < 2 || s.c.BuiltIn(path[1]) {
		s.c.NotFound.ServeHTTP(w, req)
		return
	}
	r, err := s.current(req.Context())
	switch {
	case err != nil:
		unavailable(w, req, err)
	case r == nil:
		s.c.NotFound.ServeHTTP(w, req)
	case len(path) <= 3:
		if h := r.discovery.handler(path[1:]); h != nil {
			h.ServeHTTP(w, req)
			return
		}
		s.c.NotFound.ServeHTTP(w, req)
	default:
		r.handler.ServeHTTP(w, req)
	}
}

func unavailable(w http.ResponseWriter, req *http.Request, err error) {
	responsewriters.ErrorNegotiated(apierrors.NewServiceUnavailable("custom resources: "+err.Error()), apiserver.Codecs, schema.GroupVersion{}, w, req)
}
