package api

import (
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/filters/impersonation"
	"k8s.io/apiserver/pkg/endpoints/request"
	serverfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"bramble.dev/server/api/audit"
	"bramble.dev/server/api/fairness"
)

const (
	requestTimeout = time.Minute
	maxRequests    = 600 // worked on at once, without streams and what watches do after their beginning; upstream's number
	maxBodyBytes   = 3 << 20
)

// longRunning tells requests that have no deadline and count for no limit.
func longRunning(r *http.Request, info *request.RequestInfo) bool {
	return upstreamLongRunning(r, info) || info.Path == dialPath
}

var upstreamLongRunning = serverfilters.BasicLongRunningRequestCheck(sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"))

var requestInfo = &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}

// remote is the chain in front of the API for requests from the network, upstream's order from the inside out.
func remote(api http.Handler, authn authenticator.Request, authz authorizer.Authorizer, turns *fairness.Fairness, log *audit.Log, patience time.Duration) http.Handler {
	h := filters.WithAuthorization(api, authz, legacyscheme.Codecs)
	h = turns.Requests(h, longRunning)
	h = impersonation.WithConstrainedImpersonation(h, authz, legacyscheme.Codecs)
	h = log.Requests(h, longRunning)
	h = filters.WithAuthentication(h, authn, log.Unauthorized(filters.Unauthorized(legacyscheme.Codecs)), audiences, nil)
	h = filters.WithWarningRecorder(h)
	h = serverfilters.WithTimeoutForNonLongRunningRequests(deep(h), longRunning)
	h = filters.WithRequestDeadline(h, nil, nil, longRunning, legacyscheme.Codecs, requestTimeout)
	h = untilStop(h)
	h = filters.WithCacheControl(h)
	h = withUpgrade(h)
	h = counted(h)
	h = patient(h, patience)
	return deep(entrance(h))
}

// local is the chain for programs of this process: their identity is in the request's context, nothing limits them, and they set
// their own deadlines.
func local(api http.Handler, authz authorizer.Authorizer, log *audit.Log) http.Handler {
	h := filters.WithAuthorization(api, authz, legacyscheme.Codecs)
	h = impersonation.WithConstrainedImpersonation(h, authz, legacyscheme.Codecs)
	h = log.Requests(h, longRunning)
	h = filters.WithWarningRecorder(h)
	return entrance(h)
}

// entrance is what every request goes through first. Upstream's latency trackers are left out: only metrics that are not registered
// here, and the annotations of slow requests in an audit log, would read them.
func entrance(h http.Handler) http.Handler {
	h = filters.WithRequestInfo(h, requestInfo)
	h = filters.WithRequestReceivedTimestamp(h)
	h = serverfilters.WithPanicRecovery(h, requestInfo)
	return filters.WithAuditInit(h)
}
