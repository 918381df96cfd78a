package api

import (
	"net/http"
	"net/url"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/client-go/informers"

	"bramble.dev/server/api/customresources"
)

// newCustomResources makes what serves CustomResourceDefinitions' resources.
func (s *Server) newCustomResources(admit admission.Interface, d *discovery) *customresources.Server {
	w := s.wiring
	client := s.ClientConfig("system:apiserver", user.SystemPrivilegedGroup)
	client.ContentType = runtime.ContentTypeJSON
	return customresources.New(customresources.Config{
		DB: s.config.Store, Prefix: w.stores.prefix(customresources.Resource), Options: definedStores{w.stores}, Client: client, Admit: admit, Authorizer: w.authorizer,
		Webhooks: customresources.Webhooks{Resolver: services{w.informers}, Transport: w.podTransport},
		Groups:   d.groups, Discovery: d.apis, BuiltIn: builtIn, NotFound: http.HandlerFunc(http.NotFound),
		RequestTimeout: requestTimeout, MinWatch: minWatch, MaxBodyBytes: maxBodyBytes, Logger: s.log,
	})
}

// services resolves a Service to one of its ready endpoints, as services/proxy does.
type services struct {
	informers informers.SharedInformerFactory
}

func (r services) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	return proxy.ResolveEndpoint(r.informers.Core().V1().Services().Lister(), endpointSlices{r.informers}, namespace, name, port)
}
