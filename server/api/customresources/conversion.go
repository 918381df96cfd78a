package customresources

import (
	"net/http"

	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/tracing"
)

// Webhooks is how the server of a conversion webhook is reached where it is a Service of the cluster. Those that a URL names are
// reached as the machine reaches them.
type Webhooks struct {
	Resolver  webhook.ServiceResolver
	Transport *http.Transport // to what the resolver answers
}

// credentials are those that a webhook is asked with: none, but for one that is the API itself.
func (w Webhooks) credentials(api *rest.Config) webhook.AuthenticationInfoResolverWrapper {
	return webhook.NewDefaultAuthenticationInfoResolverWrapper(w.Transport, nil, api, tracing.NewNoopTracerProvider())
}
