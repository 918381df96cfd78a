package api

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/tracing"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"bramble.dev/server/admission"
	"bramble.dev/server/api/aggregator"
	"bramble.dev/server/api/customresources"
	"bramble.dev/server/api/informer"
)

// newAdmission makes the chain of plugins that every write goes through.
func (s *Server) newAdmission(ctx context.Context) (*admission.Admission, error) {
	w := s.wiring
	parameters, err := dynamic.NewForConfig(s.dynamicConfig())
	if err != nil {
		return nil, err
	}
	return admission.New(admission.Config{
		Client: w.client, Dynamic: parameters, Informers: w.informers, Authorizer: w.authorizer, Served: w.stores.served, Present: presentGroups(), Done: ctx.Done(),
		Webhooks: admission.Webhooks{Services: services{w.informers}, Credentials: s.webhookCredentials()},
		Store:    s.config.Store, Prefix: w.stores.prefix, Logger: s.log,
		Read: func(ctx context.Context) admission.Informers {
			return informer.NewFactory(ctx, s.config.Store, legacyscheme.Scheme, w.stores.prefix, s.log, informer.Transform(w.stores.transformer))
		},
	})
}

// dynamicConfig is for clients of the API itself, in process, that know no Go types.
func (s *Server) dynamicConfig() *rest.Config {
	c := s.ClientConfig("system:apiserver", user.SystemPrivilegedGroup)
	c.ContentType = runtime.ContentTypeJSON
	return c
}

// webhookCredentials are those that a webhook is asked with, and the way to it: none, and through the link of a node where it is a
// Service of the cluster, but for one that is the API itself.
func (s *Server) webhookCredentials() webhook.AuthenticationInfoResolverWrapper {
	return webhook.NewDefaultAuthenticationInfoResolverWrapper(s.wiring.podTransport, nil, s.dynamicConfig(), tracing.NewNoopTracerProvider())
}

// newAggregator makes what gives requests to the servers that APIServices name.
func (s *Server) newAggregator(d *discovery) *aggregator.Server {
	w := s.wiring
	return aggregator.New(aggregator.Config{
		Store: s.config.Store, Prefix: w.stores.prefix(aggregator.Resource), Client: w.apiServices, Informers: w.informers, Endpoints: endpointSlices{w.informers},
		Services: services{w.informers}, Dial: w.podTransport.DialContext, Certificate: s.config.PKI.FrontProxyCertificate(),
		Groups: d.groups.of(fromAPIServices), Discovery: d.apis, BuiltIn: builtIn, Logger: s.log,
	})
}

// newCustomResources makes what serves CustomResourceDefinitions' resources.
func (s *Server) newCustomResources(d *discovery) *customresources.Server {
	w := s.wiring
	registrar := &aggregator.Registrar{Store: s.config.Store, Prefix: w.stores.prefix(aggregator.Resource), Client: w.apiServices.APIServices(), Logger: s.log}
	return customresources.New(customresources.Config{
		Store: s.config.Store, Prefix: w.stores.prefix(customresources.Resource), Options: definedStores{w.stores}, Client: s.dynamicConfig(), Admit: s.admit.Chain, Authorizer: w.authorizer,
		Services: services{w.informers}, Credentials: s.webhookCredentials(),
		Groups: d.groups.of(fromDefinitions), Discovery: d.apis, Register: registrar.Run, BuiltIn: builtIn, NotFound: http.HandlerFunc(http.NotFound), Starting: s.config.Starting,
		RequestTimeout: requestTimeout, MinWatch: minWatch, MaxBodyBytes: maxBodyBytes, Logger: s.log,
	})
}

// services resolves a Service to one of its ready endpoints, as services/proxy does, or to the name outside of the cluster that it
// stands for.
type services struct {
	informers informers.SharedInformerFactory
}

func (r services) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	known := r.informers.Core().V1().Services().Lister()
	s, err := known.Services(namespace).Get(name)
	if err != nil {
		return nil, err
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return &url.URL{Scheme: "https", Host: net.JoinHostPort(s.Spec.ExternalName, strconv.Itoa(int(port)))}, nil
	}
	return proxy.ResolveEndpoint(known, endpointSlices{r.informers}, namespace, name, port)
}
