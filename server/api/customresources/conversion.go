package customresources

import (
	"errors"
	"net/http"
	"net/url"

	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/tracing"
)

// Webhooks is how the server of a conversion webhook is reached, where it is a Service of the cluster; those that a URL names are
// reached as the machine reaches them.
type Webhooks struct {
	Resolver  webhook.ServiceResolver // nil: Services cannot be asked
	Transport *http.Transport         // to what the resolver answers; nil: as the machine reaches it
}

// noServices refuses conversion by a Service.
type noServices struct{}

func (noServices) ResolveEndpoint(namespace, name string, _ int32) (*url.URL, error) {
	return nil, errors.New("the conversion webhook is the Service " + namespace + "/" + name + ", and this server has no way to the Services of the cluster: name the webhook by a URL")
}

func (w Webhooks) resolver() webhook.ServiceResolver {
	if w.Resolver == nil {
		return noServices{}
	}
	return w.Resolver
}

// credentials are those that a webhook is asked with: none, but for one that is the API itself.
func (w Webhooks) credentials(api *rest.Config) webhook.AuthenticationInfoResolverWrapper {
	return webhook.NewDefaultAuthenticationInfoResolverWrapper(w.Transport, nil, api, tracing.NewNoopTracerProvider())
}
