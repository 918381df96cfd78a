package customresources

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/client-go/rest"

	"k8s.io/apiextensions-apiserver/pkg/apiserver"

	"bramble.dev/server/store"
)

// Config is what the API gives.
type Config struct {
	DB         *store.DB
	Prefix     string                    // where the definitions lie in the store
	Options    generic.RESTOptionsGetter // for the storages of custom resources
	Client     *rest.Config              // of the API itself, in process
	Admit      admission.Interface
	Authorizer authorizer.UnconditionalAuthorizer
	Webhooks   Webhooks
	Groups     Groups                     // the list of groups
	Discovery  aggregated.ResourceManager // of what lies below /apis
	BuiltIn    func(group string) bool    // whether a group is the API's own
	NotFound   http.Handler               // for what is not there

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
	c Config

	mu      sync.Mutex
	closed  bool
	running *running // nil while there is no definition
}

// New makes a server. Nothing runs until there is a definition.
func New(c Config) *Server { return &Server{c: c} }

// Run starts what serves custom resources with the first definition, and stops it after the last, until ctx is done. A request does
// not wait for it: it starts what it needs by itself.
func (s *Server) Run(ctx context.Context) {
	defer s.Close()
	for ctx.Err() == nil {
		err := s.watch(ctx)
		if ctx.Err() != nil || errors.Is(err, store.ErrTooOld) {
			continue
		}
		s.c.Logger.Error("following the definitions of custom resources failed", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (s *Server) watch(ctx context.Context) error {
	f, err := s.c.DB.Follow(s.c.Prefix)
	if err != nil {
		return err
	}
	defer f.Close()
	f.Snapshot()
	for {
		if _, err := s.ensure(); err != nil {
			return err
		}
		if err := s.next(ctx, f); err != nil {
			return err
		}
	}
}

// next waits for a change of the definitions. If there is none left, and none comes soon, it stops what runs.
func (s *Server) next(ctx context.Context, f *store.Follower) error {
	if n, _ := s.c.DB.Stand(s.c.Prefix); n > 0 {
		_, err := f.Next(ctx)
		return err
	}
	soon, cancel := context.WithTimeout(ctx, linger)
	defer cancel()
	_, err := f.Next(soon)
	if err == nil || ctx.Err() != nil || soon.Err() == nil {
		return err
	}
	s.stopIdle()
	_, err = f.Next(ctx)
	return err
}

// linger is how long what serves custom resources stays after the last definition: its controllers finish what they are about, and a
// definition that is deleted and made anew does not start everything again.
const linger = 5 * time.Second

// Close stops everything for good.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.stop()
}

// errClosed refuses requests that come while the server ends: they must not hear that what they ask for does not exist.
var errClosed = errors.New("the server is closing")

// ensure gives what runs, and starts it if there are definitions; nil when there is nothing.
func (s *Server) ensure() (*running, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if n, _ := s.c.DB.Stand(s.c.Prefix); s.running == nil && n > 0 {
		r, err := s.c.start()
		if err != nil {
			return nil, err
		}
		s.running = r
	}
	return s.running, nil
}

// stopIdle stops what runs unless there is a definition after all.
func (s *Server) stopIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, _ := s.c.DB.Stand(s.c.Prefix); n == 0 {
		s.stop()
	}
}

func (s *Server) stop() {
	if s.running != nil {
		s.running.stop()
		s.running = nil
	}
}

// current gives what runs, after it has taken in all definitions that the store holds; nil when there is none.
func (s *Server) current(ctx context.Context) (*running, error) {
	for {
		r, err := s.ensure()
		if r == nil || err != nil {
			return nil, err
		}
		if err = r.definitions.current(ctx); err == nil {
			return r, nil
		}
		if ctx.Err() != nil {
			return nil, err
		} // otherwise it was stopped meanwhile
	}
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
