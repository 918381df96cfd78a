package api

import (
	"net/http"
	"strings"
	"unique"

	restful "github.com/emicklei/go-restful/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
)

// router is a tree of path segments that holds the handlers which upstream's installer registers with go-restful. The container
// they came in, with its regular expressions and documentation, can be collected.
type router struct {
	literal map[string]*router
	any     *router          // {name}: one segment
	methods map[string]route // here
	below   map[string]route // {path:*}: here and anything below
}

// route is a handler, and the types of content that it reads and writes.
type route struct {
	handle             http.HandlerFunc
	consumes, produces mediaTypes
}

// mediaTypes are some, "a/b, c/d"; the zero value stands for any. There are few different ones, and each is kept once.
type mediaTypes struct{ unique.Handle[string] }

func mediaTypesOf(list []string) (t mediaTypes) {
	if len(list) > 0 {
		t.Handle = unique.Make(strings.Join(list, ", "))
	}
	return t
}

// take moves every route of a container into the tree; wrap, if any, goes around each handler.
func (n *router) take(c *restful.Container, wrap func(http.HandlerFunc) http.HandlerFunc) {
	for _, ws := range c.RegisteredWebServices() {
		for _, r := range ws.Routes() {
			h := plain(r.Function)
			if wrap != nil {
				h = wrap(h)
			}
			n.add(r.Method, r.Path, route{h, mediaTypesOf(r.Consumes), mediaTypesOf(r.Produces)})
		}
	}
}

// plain is a route as net/http knows it. Upstream's handlers look at nothing else of go-restful.
func plain(f restful.RouteFunction) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { f(restful.NewRequest(r), restful.NewResponse(w)) }
}

func (n *router) add(method, path string, h route) {
	rest := strings.Trim(path, "/")
	for rest != "" {
		var s string
		s, rest, _ = strings.Cut(rest, "/")
		if strings.HasSuffix(s, ":*}") {
			set(&n.below, method, h)
			return
		}
		if strings.HasPrefix(s, "{") {
			if n.any == nil {
				n.any = &router{}
			}
			n = n.any
			continue
		}
		c := n.literal[s]
		if c == nil {
			c = &router{}
			set(&n.literal, strings.Clone(s), c)
		}
		n = c
	}
	set(&n.methods, method, h)
}

func set[V any](m *map[string]V, k string, v V) {
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[k] = v
}

// find gives the routes of a path: a literal segment goes before a parameter, and both before a subtree.
func (n *router) find(path string) map[string]route {
	var below map[string]route
	rest := strings.Trim(path, "/")
	for rest != "" {
		if n.below != nil {
			below = n.below
		}
		var s string
		s, rest, _ = strings.Cut(rest, "/")
		next := n.literal[s]
		if next == nil {
			next = n.any
		}
		if next == nil {
			return below
		}
		n = next
	}
	if n.methods != nil {
		return n.methods
	}
	if n.below != nil {
		return n.below
	}
	return below
}

// serve answers a request if its path is in the tree, or below a group of which it serves something.
func (n *router) serve(w http.ResponseWriter, r *http.Request) bool {
	m := n.find(r.URL.Path)
	if m == nil {
		if n.hasGroup(r.URL.Path) {
			refuse(w, r, http.StatusNotFound, "")
			return true
		}
		return false
	}
	h, ok := m[r.Method]
	switch {
	case !ok:
		refuse(w, r, http.StatusMethodNotAllowed, "")
	case !h.reads(r):
		refuse(w, r, http.StatusUnsupportedMediaType, "415: Unsupported Media Type")
	case !h.writes(r):
		refuse(w, r, http.StatusNotAcceptable, "406: Not Acceptable\n\nAvailable representations: "+h.produces.Value())
	default:
		h.handle(w, r)
	}
	return true
}

// reads and writes decide by type alone, without parameters, as go-restful does: what it lets through is negotiated by the handler,
// with other words.
func (h route) reads(r *http.Request) bool {
	content := r.Header.Get("Content-Type")
	if content == "" {
		if r.Method == http.MethodGet || r.Method == http.MethodDelete || r.Method == http.MethodOptions {
			return true
		}
		content = "application/octet-stream"
	}
	return h.consumes.match(content, false)
}

func (h route) writes(r *http.Request) bool {
	accept := r.Header.Get("Accept")
	return accept == "" || h.produces.match(accept, true)
}

// match tells whether one of the types of a header, "a/b;q=1, c/d", is among these; what is accepted may be any of them.
func (t mediaTypes) match(header string, any bool) bool {
	if t == (mediaTypes{}) {
		return true
	}
	for one := range strings.SplitSeq(header, ",") {
		one, _, _ = strings.Cut(one, ";")
		one = strings.Trim(one, " ")
		for mine := range strings.SplitSeq(t.Value(), ", ") {
			if mine == one || mine == "*/*" || any && one == "*/*" {
				return true
			}
		}
	}
	return false
}

// hasGroup tells whether a path is below /api, below /apis/<group> for a group in the tree, or below another root of upstream's.
func (n *router) hasGroup(path string) bool {
	if rest, ok := strings.CutPrefix(path, "/apis/"); ok {
		group, _, _ := strings.Cut(rest, "/")
		return n.literal["apis"] != nil && n.literal["apis"].literal[group] != nil
	}
	return strings.HasPrefix(path, "/api/") || strings.HasPrefix(path, "/openid/v1/jwks/") || strings.HasPrefix(path, "/.well-known/openid-configuration/")
}

// refuse answers with a Status, as clients of the API expect it.
func refuse(w http.ResponseWriter, r *http.Request, code int, why string) {
	err := apierrors.NewGenericServerResponse(code, "", schema.GroupResource{}, "", why, 0, false)
	responsewriters.ErrorNegotiated(err, legacyscheme.Codecs, schema.GroupVersion{}, w, r)
}
