package ingress

import (
	"net"
	"path"
	"strings"
)

// Table is all that the process serves by. It is sent as JSON.
type Table struct {
	Hosts    map[string][]Route `json:"hosts,omitempty"`   // "a.example", "*.example" or "" for all; the more special routes first
	Default  *Route             `json:"default,omitempty"` // for what no other route is for
	Backends [][]string         `json:"backends,omitempty"`
	Certs    []Cert             `json:"certs,omitempty"`
	HTTPS    int                `json:"https,omitempty"` // the port that requests are sent on to
}

// Route leads a path of a host to a backend.
type Route struct {
	Path    string `json:"path,omitempty"`
	Exact   bool   `json:"exact,omitempty"`
	Backend int    `json:"backend"`          // an index of Table.Backends
	Secure  bool   `json:"secure,omitempty"` // plain HTTP is sent on to HTTPS
}

// Cert is a certificate for some hosts; without any, for all that no other is for.
type Cert struct {
	Hosts []string `json:"hosts,omitempty"`
	Cert  []byte   `json:"cert"`
	Key   []byte   `json:"key"`
}

// normalHost is a request's host as Ingresses write it.
func normalHost(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// wildcard is the name with a star that may stand for a host: it stands for one label.
func wildcard(host string) string {
	if _, rest, ok := strings.Cut(host, "."); ok && rest != "" {
		return "*." + rest
	}
	return ""
}

// route finds what serves a path of a host: the most special name of the host that there is, and of its routes the most special
// that matches.
func (t *Table) route(host, urlPath string) *Route {
	if t == nil {
		return nil
	}
	clean := cleanPath(urlPath)
	names := []string{host, wildcard(host), ""}
	if host == "" {
		names = []string{""}
	}
	for i, name := range names {
		routes := t.Hosts[name]
		if len(routes) == 0 || name == "" && i < len(names)-1 {
			continue
		}
		for k := range routes {
			if routes[k].matches(clean) {
				return &routes[k]
			}
		}
		break
	}
	return t.Default
}

// cleanPath is a path without dots, by which routes are chosen: what the backend takes a path for must not be another's.
func cleanPath(p string) string {
	if p == "" || p[0] != '/' {
		p = "/" + p
	}
	clean := path.Clean(p)
	if strings.HasSuffix(p, "/") && clean != "/" {
		clean += "/"
	}
	return clean
}

// matches compares element by element: /foo is no prefix of /foobar.
func (r *Route) matches(p string) bool {
	if r.Exact {
		return p == r.Path
	}
	prefix := strings.TrimSuffix(r.Path, "/")
	return prefix == "" || p == prefix || strings.HasPrefix(p, prefix+"/")
}
