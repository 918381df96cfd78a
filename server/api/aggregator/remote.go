package aggregator

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints"
	"k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
)

const (
	// recheck is how often a server that answers is asked again what it serves, if nothing happens: a request of some hundred bytes,
	// over a connection that stays open. Upstream asks five at once, twice a minute.
	recheck = time.Minute
	// How long a server that does not answer is left alone: it doubles from the first to the last.
	retryFirst, retryLast = time.Second, 30 * time.Second
	// attempts are made before a server counts as not answering: of several endpoints, one may be down.
	attempts = 3

	checkTimeout = 5 * time.Second
	maxDocument  = 32 << 20 // bytes of a document of another server
)

// aggregatorUser is who asks, as other servers know upstream's aggregator.
var aggregatorUser = &user.DefaultInfo{Name: "system:kube-aggregator", Groups: []string{user.SystemPrivilegedGroup}}

// remote is the server of one group version.
type remote struct {
	r         *running
	name      string // of its APIService
	uid       types.UID
	gv        schema.GroupVersion
	spec      apiregistrationv1.APIServiceSpec
	builtIn   bool // the group is the API's own: the Service is not asked
	transport *http.Transport
	available atomic.Bool
	again     chan struct{} // holds one: ask anew, now
	ctx       context.Context
	stop      context.CancelFunc

	mu        sync.Mutex
	resources []apidiscoveryv2.APIResourceDiscovery // that it said it serves, the last time it answered; nil: it has not answered yet
	index     index
}

// newRemote makes the remote of an APIService that names a Service. Until it was asked, what its status said last counts: a server that
// was restarted refuses nobody.
func newRemote(r *running, a *apiregistrationv1.APIService) *remote {
	ctx, stop := context.WithCancel(r.ctx)
	m := &remote{
		r: r, name: a.Name, uid: a.UID, gv: schema.GroupVersion{Group: a.Spec.Group, Version: a.Spec.Version}, spec: a.Spec, builtIn: r.c.BuiltIn(a.Spec.Group),
		again: make(chan struct{}, 1), ctx: ctx, stop: stop,
	}
	m.available.Store(helper.IsAPIServiceConditionTrue(a, apiregistrationv1.Available))
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, GetClientCertificate: r.c.Certificate,
		ServerName: a.Spec.Service.Name + "." + a.Spec.Service.Namespace + ".svc", InsecureSkipVerify: a.Spec.InsecureSkipTLSVerify,
	}
	if len(a.Spec.CABundle) > 0 {
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM(a.Spec.CABundle)
	}
	m.transport = &http.Transport{DialContext: r.c.Dial, TLSClientConfig: config, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 2, IdleConnTimeout: 2 * recheck, TLSHandshakeTimeout: 10 * time.Second}
	return m
}

// succeed takes over what the one before it has learnt, if both stand for the same server: an APIService that gets another authority or
// another priority stays in discovery. The one before it was stopped.
func (m *remote) succeed(old *remote) {
	if !equality.Semantic.DeepEqual(old.spec.Service, m.spec.Service) {
		return
	}
	old.mu.Lock()
	defer old.mu.Unlock()
	m.resources, m.index = old.resources, old.index
}

// ask has the server asked anew, now.
func (m *remote) ask() {
	select {
	case m.again <- struct{}{}:
	default:
	}
}

// run asks the server now and then, until its APIService is gone.
func (m *remote) run() {
	defer m.transport.CloseIdleConnections()
	pause := retryFirst
	for m.ctx.Err() == nil {
		condition := m.check()
		if m.ctx.Err() != nil {
			return
		}
		m.found(condition.Status == apiregistrationv1.ConditionTrue)
		wait := recheck
		if err := m.r.tell(m.ctx, m.name, condition); err != nil {
			level := slog.LevelWarn
			if apierrors.IsConflict(err) { // somebody wrote meanwhile
				level = slog.LevelDebug
			}
			m.r.c.Logger.Log(m.ctx, level, "an APIService's status was not written", "apiService", m.name, "err", err)
			condition.Status = apiregistrationv1.ConditionUnknown
		}
		if condition.Status == apiregistrationv1.ConditionTrue {
			pause = retryFirst
		} else {
			wait, pause = pause, min(2*pause, retryLast)
		}
		var soon <-chan time.Time
		if !m.builtIn || condition.Status != apiregistrationv1.ConditionTrue {
			soon = time.After(wait)
		}
		select {
		case <-m.ctx.Done():
		case <-m.again:
		case <-soon:
		}
	}
}

// found takes in what a check has found, unless the remote was forgotten meanwhile.
func (m *remote) found(available bool) {
	m.r.mu.RLock()
	defer m.r.mu.RUnlock()
	if m.ctx.Err() != nil {
		return
	}
	m.available.Store(available)
	m.announce()
}

// check asks the server what it serves and says whether it is available, in upstream's words.
func (m *remote) check() apiregistrationv1.APIServiceCondition {
	say := func(status apiregistrationv1.ConditionStatus, reason, format string, args ...any) apiregistrationv1.APIServiceCondition {
		return apiregistrationv1.APIServiceCondition{Status: status, Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	if m.builtIn {
		return say(apiregistrationv1.ConditionTrue, "Local", "%s is one of this server's own groups: it is served locally, and the Service is not asked", m.gv.Group)
	}
	s := m.spec.Service
	const unavailable, unknown = apiregistrationv1.ConditionFalse, apiregistrationv1.ConditionUnknown
	service, err := m.r.c.Informers.Core().V1().Services().Lister().Services(s.Namespace).Get(s.Name)
	switch {
	case apierrors.IsNotFound(err):
		return say(unavailable, "ServiceNotFound", "service/%s in %q is not present", s.Name, s.Namespace)
	case err != nil:
		return say(unknown, "ServiceAccessError", "service/%s in %q cannot be checked due to: %v", s.Name, s.Namespace, err)
	case service.Spec.Type == corev1.ServiceTypeClusterIP:
		n := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == m.port() })
		if n < 0 {
			return say(unavailable, "ServicePortError", "service/%s in %q is not listening on port %d", s.Name, s.Namespace, m.port())
		}
		port := service.Spec.Ports[n].Name
		backed, err := m.r.c.Endpoints.GetEndpointSlices(s.Namespace, s.Name)
		switch {
		case err != nil:
			return say(unknown, "EndpointsAccessError", "service/%s in %q cannot be checked due to: %v", s.Name, s.Namespace, err)
		case len(backed) == 0:
			return say(unavailable, "EndpointsNotFound", "cannot find endpointslices for service/%s in %q", s.Name, s.Namespace)
		case !ready(backed, port):
			return say(unavailable, "MissingEndpoints", "endpointslices for service/%s in %q have no addresses with port name %q", s.Name, s.Namespace, port)
		}
	}
	for range attempts {
		var resources []apidiscoveryv2.APIResourceDiscovery
		if resources, err = m.discover(); err == nil {
			m.mu.Lock()
			m.resources = resources
			m.mu.Unlock()
			return say(apiregistrationv1.ConditionTrue, "Passed", "all checks passed")
		}
	}
	m.r.c.Logger.Debug("an aggregated API does not answer", "apiService", m.name, "err", err)
	return say(unavailable, "FailedDiscoveryCheck", "%s", m.asService(service, err))
}

// asService says what went wrong with the Service's address where it names the one of its endpoints that was asked, as upstream, which
// asks that address: of several endpoints another one is asked each time, and a condition that says something else each time is written
// each time.
func (m *remote) asService(s *corev1.Service, err error) string {
	var u *unanswered
	if !errors.As(err, &u) || s.Spec.Type == corev1.ServiceTypeExternalName {
		return err.Error()
	}
	host := s.Spec.ClusterIP
	if host == "" || host == corev1.ClusterIPNone {
		host = s.Name + "." + s.Namespace + ".svc"
	}
	return strings.ReplaceAll(err.Error(), u.host, net.JoinHostPort(host, strconv.Itoa(int(m.port()))))
}

// unanswered is a question that an endpoint did not answer as it should.
type unanswered struct {
	host string
	code int // 0: there was no answer
	error
}

func (u *unanswered) Unwrap() error { return u.error }

func (m *remote) port() int32 {
	if p := m.spec.Service.Port; p != nil {
		return *p
	}
	return 443
}

// ready tells whether a port of a Service has an endpoint that is ready.
func ready(all []*discoveryv1.EndpointSlice, port string) bool {
	return slices.ContainsFunc(all, func(s *discoveryv1.EndpointSlice) bool {
		return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool { return e.Conditions.Ready == nil || *e.Conditions.Ready }) &&
			slices.ContainsFunc(s.Ports, func(p discoveryv1.EndpointPort) bool { return p.Name != nil && *p.Name == port && p.Port != nil })
	})
}

// discover asks for the document of the group version, which every aggregated server has.
func (m *remote) discover() ([]apidiscoveryv2.APIResourceDiscovery, error) {
	ctx, cancel := context.WithTimeout(m.ctx, checkTimeout)
	defer cancel()
	text, err := m.get(ctx, "/apis/"+m.gv.String(), "")
	if err != nil {
		return nil, err
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("the answer for /apis/%s is no list of resources: %w", m.gv, err)
	}
	resources, err := endpoints.ConvertGroupVersionIntoToDiscovery(list.APIResources)
	if err != nil {
		return nil, fmt.Errorf("the answer for /apis/%s: %w", m.gv, err)
	}
	if resources == nil {
		resources = []apidiscoveryv2.APIResourceDiscovery{} // none is an answer, too
	}
	return resources, nil
}

// get asks the server for a document, as the aggregator. What does not answer with a status below 300 is an error, and so is a redirect.
func (m *remote) get(ctx context.Context, path, query string) ([]byte, error) {
	at, err := m.r.c.Services.ResolveEndpoint(m.spec.Service.Namespace, m.spec.Service.Name, m.port())
	if err != nil {
		return nil, err
	}
	at.Scheme, at.Path, at.RawQuery = "https", path, query
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	transport.SetAuthProxyHeaders(req, aggregatorUser.Name, "", aggregatorUser.Groups, nil)
	client := http.Client{Transport: m.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	fail := func(code int, err error) ([]byte, error) {
		return nil, &unanswered{at.Host, code, fmt.Errorf("failing or missing response from %v: %w", at, err)}
	}
	resp, err := client.Do(req)
	if err != nil {
		m.transport.CloseIdleConnections() // what it holds may be of an endpoint that is gone
		return fail(0, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < http.StatusOK || resp.StatusCode >= http.StatusMultipleChoices {
		return fail(resp.StatusCode, fmt.Errorf("bad status from %v: %d", at, resp.StatusCode))
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument))
	if err != nil {
		return fail(0, err)
	}
	return text, nil
}

// announce says in discovery what the server serves: what it said last, marked as stale while it does not answer.
func (m *remote) announce() {
	if m.builtIn {
		return // it is announced already
	}
	m.mu.Lock()
	v := apidiscoveryv2.APIVersionDiscovery{Version: m.gv.Version, Resources: m.resources, Freshness: apidiscoveryv2.DiscoveryFreshnessStale}
	m.mu.Unlock()
	if m.available.Load() && v.Resources != nil {
		v.Freshness = apidiscoveryv2.DiscoveryFreshnessCurrent
	}
	m.r.together.AddGroupVersion(m.gv.Group, v)
	m.r.together.SetGroupVersionPriority(metav1.GroupVersion(m.gv), int(m.spec.GroupPriorityMinimum), int(m.spec.VersionPriority))
}
