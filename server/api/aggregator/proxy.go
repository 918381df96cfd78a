package aggregator

import (
	"net/http"
	"net/url"

	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/util/flowcontrol"
	upstream "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/client-go/transport"
	"k8s.io/streaming/pkg/httpstream"
)

// ServeHTTP passes a request on, with the name of its user in headers that the front proxy's certificate vouches for. Its errors are
// plain text, as upstream's are.
func (m *remote) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !m.available.Load() {
		http.Error(w, "service unavailable", http.StatusServiceUnavailable)
		return
	}
	u, ok := request.UserFrom(req.Context())
	if !ok {
		http.Error(w, "missing user", http.StatusInternalServerError)
		return
	}
	at, err := m.r.c.Services.ResolveEndpoint(m.spec.Service.Namespace, m.spec.Service.Name, m.port())
	if err != nil {
		m.r.c.Logger.Warn("an aggregated API is out of reach", "apiService", m.name, "err", err)
		http.Error(w, "service unavailable", http.StatusServiceUnavailable)
		return
	}
	location := &url.URL{Scheme: "https", Host: at.Host, Path: req.URL.Path, RawPath: req.URL.RawPath, RawQuery: req.URL.Query().Encode()}
	passed, cancel := upstream.NewRequestForProxy(location, req)
	defer cancel()
	upgrade := httpstream.IsUpgradeRequest(req)
	if upgrade { // goes over a connection of its own, past the transport that would set them
		transport.SetAuthProxyHeaders(passed, u.GetName(), u.GetUID(), u.GetGroups(), u.GetExtra())
	}
	through := transport.NewAuthProxyRoundTripper(u.GetName(), u.GetUID(), u.GetGroups(), u.GetExtra(), m.transport)
	h := proxy.NewUpgradeAwareHandler(location, through, true, upgrade, responder{m, w})
	h.RejectForwardingRedirects = true
	flowcontrol.RequestDelegated(req.Context()) // a watch of it takes no seat here
	h.ServeHTTP(w, passed)
}

// responder answers a request that could not be passed on, and has the server asked whether it is still there.
type responder struct {
	m *remote
	w http.ResponseWriter
}

func (r responder) Error(_ http.ResponseWriter, req *http.Request, err error) {
	if req.Context().Err() == nil {
		r.m.ask()
	}
	http.Error(r.w, err.Error(), http.StatusServiceUnavailable)
}
