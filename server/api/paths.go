package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"

	restful "github.com/emicklei/go-restful/v3"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/kubernetes/pkg/routes"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"bramble.dev/internal/upstream"
	"bramble.dev/server/api/aggregator"
	"bramble.dev/server/api/customresources"
	"bramble.dev/server/api/openapi"
)

// Version is what the API says it is: the version of Kubernetes that its behaviour comes from.
const Version = upstream.Version + "+bramble"

// mux serves what is no resource, and hands resources to the routes.
func (s *Server) mux(resources *router, groupVersions []string) http.Handler {
	documents := openapi.Handler{Custom: []openapi.Custom{aggregator.Documents{Server: s.others}, customresources.Documents{Server: s.custom}}}
	paths := map[string]http.HandlerFunc{
		"/healthz":    s.health("healthz"),
		"/livez":      s.health("livez"),
		"/readyz":     s.health("readyz"),
		"/metrics":    metrics(append(s.issuers.Metrics(), s.turns)...),
		"/openapi/v2": documents.V2,
		"/openapi/v3": documents.V3,
	}
	if s.config.severalServers() {
		paths[dialPath] = s.dial
	}
	for _, name := range []string{"ping", "etcd", "poststarthook/rbac/bootstrap-roles"} {
		for _, h := range []string{"healthz", "livez", "readyz"} {
			paths["/"+h+"/"+name] = s.health(h)
		}
	}
	index := []string{"/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/openid/v1/jwks", "/version"}
	for p := range paths {
		if p != dialPath {
			index = append(index, p)
		}
	}
	for _, gv := range groupVersions {
		if g, _, ok := strings.Cut(gv, "/"); ok {
			index = append(index, "/apis/"+g, "/apis/"+gv)
		}
	}
	slices.Sort(index)
	body, _ := json.MarshalIndent(map[string]any{"paths": slices.Compact(index)}, "", "  ")
	waiting := s.turns.Debug()
	paths["/"] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(body)
	}
	resources.add("GET", "/version", route{handle: serveVersion, produces: mediaTypesOf([]string{"application/json"})})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := paths[r.URL.Path]; h != nil {
			h(w, r)
			return
		}
		if strings.HasPrefix(r.URL.Path, "/debug/api_priority_and_fairness/") {
			waiting.ServeHTTP(w, r)
			return
		}
		if strings.HasPrefix(r.URL.Path, "/openapi/v3/") {
			documents.V3(w, r)
			return
		}
		if r.URL.Path == "/apis" || r.URL.Path == "/apis/" {
			if err := errors.Join(s.custom.Current(r.Context()), s.others.Current(r.Context())); err != nil {
				s.log.Warn("discovery may not be up to date", "err", err)
			}
		}
		if !resources.serve(w, r) && !s.others.Serve(w, r) {
			s.custom.ServeHTTP(w, r)
		}
	})
}

func serveVersion(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	const major, minor = upstream.Major, upstream.Minor
	before, _ := strconv.Atoi(minor)
	before--
	body, _ := json.MarshalIndent(version.Info{
		Major: major, Minor: minor, EmulationMajor: major, EmulationMinor: minor, MinCompatibilityMajor: major, MinCompatibilityMinor: strconv.Itoa(before),
		GitVersion: Version, GitCommit: "unknown", GitTreeState: "clean", BuildDate: "1970-01-01T00:00:00Z",
		GoVersion: goruntime.Version(), Compiler: goruntime.Compiler, Platform: goruntime.GOOS + "/" + goruntime.GOARCH,
	}, "", "  ")
	w.Write(body)
}

// health answers whether the server lives (it answers, and its store takes writes), and whether it is ready (it is seeded
// and not closing). Upstream's names and lines: kubectl get --raw='/readyz?verbose'.
func (s *Server) health(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		store, seeded := s.config.Store.Ready() == nil, name != "readyz" || s.ready.Load()
		verdict := "passed"
		if !store || !seeded {
			verdict = "failed"
			w.WriteHeader(http.StatusInternalServerError)
		}
		if _, verbose := r.URL.Query()["verbose"]; !verbose && verdict == "passed" {
			fmt.Fprint(w, "ok")
			return
		}
		fmt.Fprintf(w, "[+]ping ok\n%s%s%s check %s\n", check("store", store), check("seeded", seeded), name, verdict)
	}
}

func check(name string, ok bool) string {
	if ok {
		return "[+]" + name + " ok\n"
	}
	return "[-]" + name + " failed: reason withheld\n"
}

// serveIssuer serves the keys that verify service-account tokens, by which others can trust them (OpenID discovery).
func serveIssuer(r *router, keys serviceaccount.PublicKeysGetter) error {
	provider, err := serviceaccount.NewOpenIDMetadataProvider(Issuer, Issuer+serviceaccount.JWKSPath, "", keys)
	if err != nil {
		return fmt.Errorf("issuer discovery: %w", err)
	}
	c := restful.NewContainer()
	routes.NewOpenIDMetadataServer(provider).Install(c)
	r.take(c, nil)
	return nil
}
