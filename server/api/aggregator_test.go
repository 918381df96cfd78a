package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	apiregistration "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"

	"bramble.dev/server/auth"
)

// flunders is an aggregated API server that believes a front proxy.
type flunders struct {
	*httptest.Server
	down   atomic.Bool
	hold   atomic.Bool  // it takes requests and answers none until this is false
	refuse atomic.Value // what paths begin with that it does not know
	asked  atomic.Int32 // for its group's document
	heard  chan string  // what it was asked, and for whom
	said   sync.Map     // what it says in place of what it would say, by path
}

// serve has it answer requests for a path with a document.
func (f *flunders) serve(path string, v any) { f.said.Store(path, v) }

// serveFlunders serves the group version wardle.example.com/v1 to whoever has the front proxy's certificate.
func serveFlunders(t *testing.T, pki *auth.PKI) *flunders {
	t.Helper()
	f := &flunders{heard: make(chan string, 100)}
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/apis/wardle.example.com/v1", func(w http.ResponseWriter, r *http.Request) {
		f.asked.Add(1)
		answer(w, metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: "wardle.example.com/v1",
			APIResources: []metav1.APIResource{{Name: "flunders", SingularName: "flunder", Namespaced: true, Kind: "Flunder", Verbs: []string{"get", "list"}}, {Name: "flunders/status", Namespaced: true, Kind: "Flunder", Verbs: []string{"get"}}}})
	})
	mux.HandleFunc("/apis/wardle.example.com/v1/namespaces/{ns}/flunders/{name}", func(w http.ResponseWriter, r *http.Request) {
		f.heard <- fmt.Sprintf("%s %s for %s of %s", r.Method, r.URL.RequestURI(), r.Header.Get("X-Remote-User"), strings.Join(r.Header.Values("X-Remote-Group"), "+"))
		answer(w, map[string]any{"apiVersion": "wardle.example.com/v1", "kind": "Flunder", "metadata": map[string]string{"name": r.PathValue("name")}})
	})
	mux.HandleFunc("/apis/wardle.example.com/v1/moved", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://elsewhere.example.com/", http.StatusFound)
	})
	mux.HandleFunc("/apis/wardle.example.com/v1/connect", func(w http.ResponseWriter, r *http.Request) {
		conn, both, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(both, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\nhello %s", r.Header.Get("Upgrade"), r.Header.Get("X-Remote-User"))
		both.Flush()
		_, _ = io.Copy(conn, both)
	})
	mux.HandleFunc("/openapi/v3", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"paths": map[string]any{"apis/wardle.example.com/v1": map[string]string{"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1?hash=A1"}}})
	})
	mux.HandleFunc("/openapi/v3/apis/wardle.example.com/v1", func(w http.ResponseWriter, r *http.Request) {
		answer(w, map[string]string{"openapi": "3.0.0", "asked": r.URL.RawQuery})
	})
	mux.HandleFunc("/openapi/v2", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"swagger": "2.0", "info": map[string]string{"title": "w", "version": "1"},
			"definitions": map[string]any{"com.example.wardle.v1.Flunder": map[string]string{"type": "object"}, "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": map[string]string{"type": "string"}},
			"paths":       map[string]any{"/apis/wardle.example.com/v1/flunders": map[string]any{}, "/healthz": map[string]any{}}})
	})
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.down.Load() {
			http.Error(w, "not today", http.StatusInternalServerError)
			return
		}
		if r.TLS.PeerCertificates[0].Subject.CommonName != auth.FrontProxyUser {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		if prefix, ok := f.refuse.Load().(string); ok && strings.HasPrefix(r.URL.Path, prefix) {
			http.NotFound(w, r)
			return
		}
		for f.hold.Load() && r.Context().Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		if v, ok := f.said.Load(r.URL.Path); ok {
			answer(w, v)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(pki.FrontProxyCACertPEM())
	f.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trusted}
	f.StartTLS()
	t.Cleanup(f.Close)
	return f
}

// publish makes the Service api with one endpoint, in the cluster's network.
func publish(t *testing.T, c *cluster, ns string) {
	t.Helper()
	s := service("api", 0)
	s.Spec.Ports[0].Port = 443
	must(c.client.CoreV1().Services(ns).Create(t.Context(), s, metav1.CreateOptions{}))(t)
	port, name := int32(8443), s.Spec.Ports[0].Name
	must(c.client.DiscoveryV1().EndpointSlices(ns).Create(t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "api", Labels: map[string]string{discoveryv1.LabelServiceName: "api"}}, AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.42.0.7"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: "api"}}},
		Ports:     []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
	}, metav1.CreateOptions{}))(t)
}

func apiService(gv, ns string) *apiregistrationv1.APIService {
	group, version, _ := strings.Cut(gv, "/")
	return &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: version + "." + group}, Spec: apiregistrationv1.APIServiceSpec{
		Group: group, Version: version, GroupPriorityMinimum: 2000, VersionPriority: 200, InsecureSkipTLSVerify: true,
		Service: &apiregistrationv1.ServiceReference{Namespace: ns, Name: "api"},
	}}
}

// aggregating is a server of its own whose connections into the cluster's network all end at one aggregated server.
func aggregating(t *testing.T) (*cluster, string, *flunders, apiregistration.APIServiceInterface) {
	t.Helper()
	var f *flunders
	c := start(t, t.TempDir(), func(c *Config) {
		c.PodDialer = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != "10.42.0.7:8443" && address != "adapter.example.com:443" {
				return nil, fmt.Errorf("no way to %s", address)
			}
			return (&net.Dialer{}).DialContext(ctx, network, f.Listener.Addr().String())
		}
	})
	f = serveFlunders(t, c.pki)
	client, err := apiregistration.NewForConfig(c.config)
	if err != nil {
		t.Fatal(err)
	}
	return c, c.namespace(t), f, client.APIServices()
}

// condition waits until an APIService says why it is available or not.
func condition(t *testing.T, client apiregistration.APIServiceInterface, name, reason string) (c *apiregistrationv1.APIServiceCondition) {
	t.Helper()
	eventually(t, name+" says "+reason, func() bool {
		a, err := client.Get(t.Context(), name, metav1.GetOptions{})
		if err == nil {
			c = helper.GetAPIServiceConditionByType(a, apiregistrationv1.Available)
		}
		return err == nil && c != nil && c.Reason == reason
	})
	return c
}

func TestAggregatedAPI(t *testing.T) {
	c, ns, f, client := aggregating(t)
	const path = "/apis/wardle.example.com/v1"
	if a := ask(t, c.config, "GET", path, ""); a.code != http.StatusNotFound {
		t.Errorf("before: %d %s", a.code, a.body)
	}
	a := apiService("wardle.example.com/v1", ns)
	a.Spec.InsecureSkipTLSVerify = false
	a.Spec.CABundle = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	a = must(client.Create(t.Context(), a, metav1.CreateOptions{}))(t)
	if got := condition(t, client, a.Name, "ServiceNotFound"); got.Status != apiregistrationv1.ConditionFalse || got.Message != fmt.Sprintf("service/api in %q is not present", ns) {
		t.Errorf("%+v", got)
	}
	if a := ask(t, c.config, "GET", path, ""); a.code != http.StatusServiceUnavailable || strings.TrimSpace(a.body) != "service unavailable" {
		t.Errorf("without a Service: %d %s", a.code, a.body)
	}
	publish(t, c, ns)
	// The server's certificate is made out for another name than the Service's.
	// It is told of the Service, of whose endpoints each check asks any.
	at := "https://" + must(c.client.CoreV1().Services(ns).Get(t.Context(), "api", metav1.GetOptions{}))(t).Spec.ClusterIP + ":443/apis/wardle.example.com/v1"
	if got := condition(t, client, a.Name, "FailedDiscoveryCheck"); !strings.HasPrefix(got.Message, "failing or missing response from "+at+": ") || strings.Contains(got.Message, "10.42.0.7") || !strings.Contains(got.Message, "api."+ns+".svc") {
		t.Errorf("%+v", got)
	}
	a = must(client.Get(t.Context(), a.Name, metav1.GetOptions{}))(t)
	a.Spec.CABundle, a.Spec.InsecureSkipTLSVerify = nil, true
	must(client.Update(t.Context(), a, metav1.UpdateOptions{}))(t)
	condition(t, client, a.Name, "Passed")

	// Requests are passed on, for whom they come from.
	kim, err := c.as("kim", "developers")
	if err != nil {
		t.Fatal(err)
	}
	one := path + "/namespaces/" + ns + "/flunders/f"
	if a := ask(t, kim, "GET", one, ""); a.code != http.StatusForbidden {
		t.Errorf("without a right: %d %s", a.code, a.body)
	}
	if a := ask(t, c.config, "GET", one+"?pretty=true", "", "X-Remote-User: somebody", "X-Remote-Group: else"); a.code != 200 || !strings.Contains(a.body, `"kind":"Flunder"`) {
		t.Errorf("%d %s", a.code, a.body)
	}
	if got, want := <-f.heard, "GET "+one+"?pretty=true for bramble-admin of system:masters+system:authenticated"; got != want {
		t.Errorf("the server heard %q, want %q", got, want)
	}
	if a := ask(t, c.config, "GET", path+"/moved", ""); a.code != http.StatusBadGateway {
		t.Errorf("a redirect: %d %s", a.code, a.body)
	}

	// A connection is handed on whole, as exec and attach need it.
	plain := rest.CopyConfig(c.config)
	plain.NextProtos = []string{"http/1.1"}
	r := must(http.NewRequestWithContext(t.Context(), http.MethodGet, c.url+path+"/connect", nil))(t)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "echo")
	resp := must(must(rest.HTTPClientFor(plain))(t).Do(r))(t)
	defer resp.Body.Close()
	if stream, ok := resp.Body.(io.ReadWriteCloser); resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		t.Errorf("an upgrade: %d", resp.StatusCode)
	} else {
		fmt.Fprint(stream, " and back")
		text := make([]byte, len("hello bramble-admin and back"))
		if _, err := io.ReadFull(stream, text); err != nil || string(text) != "hello bramble-admin and back" {
			t.Errorf("through the connection: %q, %v", text, err)
		}
	}

	// It stands in every document.
	groups, lists, err := c.client.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Error(err)
	}
	if !slices.ContainsFunc(groups, func(g *metav1.APIGroup) bool {
		return g.Name == "wardle.example.com" && g.PreferredVersion.Version == "v1"
	}) {
		t.Error("the group is not listed")
	}
	if !slices.ContainsFunc(lists, func(l *metav1.APIResourceList) bool {
		return l.GroupVersion == "wardle.example.com/v1" && len(l.APIResources) == 2 && l.APIResources[0].Kind == "Flunder"
	}) {
		t.Error("its resources are not listed")
	}
	if a := ask(t, c.config, "GET", "/apis", "", "Accept: application/json"); !strings.Contains(a.body, `"groupVersion":"wardle.example.com/v1"`) {
		t.Errorf("the old list of groups: %s", a.body)
	}
	if a := ask(t, c.config, "GET", "/apis/wardle.example.com", ""); a.code != 200 || !strings.Contains(a.body, `"preferredVersion":{"groupVersion":"wardle.example.com/v1"`) {
		t.Errorf("the group: %d %s", a.code, a.body)
	}
	if a := ask(t, c.config, "GET", "/openapi/v3", ""); !strings.Contains(a.body, `"apis/wardle.example.com/v1"`) {
		t.Errorf("OpenAPI: %d %.300s", a.code, a.body)
	}
	if a := ask(t, c.config, "GET", "/openapi/v3/apis/wardle.example.com/v1", ""); a.code != 200 || !strings.Contains(a.body, `"asked":"hash=A1"`) {
		t.Errorf("OpenAPI v3: %d %s", a.code, a.body)
	}
	v2 := ask(t, c.config, "GET", "/openapi/v2", "")
	var parts struct {
		Definitions map[string]json.RawMessage
		Paths       map[string]json.RawMessage
	}
	if err := json.Unmarshal([]byte(v2.body), &parts); err != nil {
		t.Error(err)
	}
	if parts.Definitions["com.example.wardle.v1.Flunder"] == nil || len(parts.Definitions["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]) < 100 {
		t.Error("OpenAPI v2 lacks the definition, or has lost one that all share")
	}
	if parts.Paths["/apis/wardle.example.com/v1/flunders"] == nil || parts.Paths["/healthz"] != nil {
		t.Error("OpenAPI v2 has other paths than those of the group version")
	}

	// It goes down, and comes back with its Service.
	f.down.Store(true)
	s := must(c.client.CoreV1().Services(ns).Get(t.Context(), "api", metav1.GetOptions{}))(t)
	s.Labels = map[string]string{"touched": "yes"}
	must(c.client.CoreV1().Services(ns).Update(t.Context(), s, metav1.UpdateOptions{}))(t)
	if got := condition(t, client, a.Name, "FailedDiscoveryCheck"); got.Message != "failing or missing response from "+at+": bad status from "+at+": 500" {
		t.Errorf("%+v", got)
	}
	if a := ask(t, c.config, "GET", one, ""); a.code != http.StatusServiceUnavailable {
		t.Errorf("while it is down: %d %s", a.code, a.body)
	}
	if _, _, err := c.client.Discovery().ServerGroupsAndResources(); err == nil || !strings.Contains(err.Error(), "wardle.example.com/v1: stale GroupVersion discovery") {
		t.Errorf("discovery while it is down: %v", err)
	}
	f.down.Store(false)
	condition(t, client, a.Name, "Passed")

	// Definitions may have other versions of the group. What both claim is the Service's, until it is gone.
	crd := c.define(t, "wardle.example.com")
	both := func(path string) func() bool {
		return func() bool {
			a := ask(t, c.config, "GET", path, "", "Accept: application/json")
			return strings.Contains(a.body, `{"groupVersion":"wardle.example.com/v1","version":"v1"},{"groupVersion":"wardle.example.com/v1beta1","version":"v1beta1"}`)
		}
	}
	eventually(t, "the group has the versions of both", both("/apis/wardle.example.com"))
	eventually(t, "the list of groups has the versions of both", both("/apis"))
	if a := ask(t, c.config, "GET", path, ""); !strings.Contains(a.body, "flunders") || strings.Contains(a.body, "widgets") {
		t.Errorf("the version that both claim: %s", a.body)
	}
	if a := ask(t, c.config, "GET", "/apis/wardle.example.com/v1beta1", ""); !strings.Contains(a.body, "widgets") {
		t.Errorf("the version of the definition: %s", a.body)
	}
	if err := client.Delete(t.Context(), a.Name, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if a := ask(t, c.config, "GET", path, ""); !strings.Contains(a.body, "widgets") {
		t.Errorf("after: %d %s", a.code, a.body)
	}
	if !both("/apis/wardle.example.com")() || !both("/apis")() {
		t.Error("the versions of the definition are not listed")
	}
	c.undefine(t, crd)
	eventually(t, "nothing is left in the list of groups", func() bool {
		return !strings.Contains(ask(t, c.config, "GET", "/apis", "", "Accept: application/json").body, "wardle")
	})
}

// A group of the API's own is served as before, whatever an APIService says: an installation of metrics-server changes nothing.
func TestBuiltInGroupsAreNotGivenAway(t *testing.T) {
	c, ns, f, client := aggregating(t)
	publish(t, c, ns)
	for _, gv := range []string{"apps/v1", "metrics.k8s.io/v1beta1"} {
		want := apiService(gv, ns)
		have := must(client.Get(t.Context(), want.Name, metav1.GetOptions{}))(t)
		if have.Labels["kube-aggregator.kubernetes.io/automanaged"] != "onstart" || have.Spec.Service != nil {
			t.Errorf("%s at the start: %+v", have.Name, have)
		}
		have.Spec = want.Spec
		must(client.Update(t.Context(), have, metav1.UpdateOptions{}))(t)
		eventually(t, want.Name+" says that it is local", func() bool {
			got := condition(t, client, want.Name, "Local")
			return got.Status == apiregistrationv1.ConditionTrue && strings.Contains(got.Message, "the Service is not asked")
		})
	}
	if _, err := c.client.AppsV1().Deployments(ns).List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	if a := ask(t, c.config, "GET", "/apis/metrics.k8s.io/v1beta1", ""); a.code != 200 || !strings.Contains(a.body, "PodMetrics") {
		t.Errorf("%d %s", a.code, a.body)
	}
	if n := f.asked.Load(); n != 0 {
		t.Errorf("the Service was asked %d times", n)
	}
}

// Whatever is served here has an APIService, and those of custom resources come and go with their definitions.
func TestLocalAPIServices(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir)
	client := must(apiregistration.NewForConfig(c.config))(t).APIServices()
	names := func() (out []string) {
		for _, a := range must(client.List(t.Context(), metav1.ListOptions{}))(t).Items {
			if !helper.IsAPIServiceConditionTrue(&a, apiregistrationv1.Available) {
				t.Errorf("%s is not available", a.Name)
			}
			out = append(out, a.Name)
		}
		return out
	}
	first := names()
	for _, want := range []string{"v1.", "v1.apps", "v2.autoscaling", "v1.apiextensions.k8s.io", "v1beta1.metrics.k8s.io", "v1beta1.extensions"} {
		if !slices.Contains(first, want) {
			t.Errorf("%s is missing: %v", want, first)
		}
	}
	if slices.Contains(first, "v1.apiregistration.k8s.io") {
		t.Error("the group of APIServices has one of itself, which upstream's has not")
	}
	if got := must(client.Get(t.Context(), "v2.autoscaling", metav1.GetOptions{}))(t).Spec; got.GroupPriorityMinimum != 17500 || got.VersionPriority != 30 {
		t.Errorf("%+v", got)
	}

	crd := c.define(t, "example.com")
	eventually(t, "the definition has an APIService", func() bool { return slices.Contains(names(), "v1.example.com") })
	if err := client.Delete(t.Context(), "v1.example.com", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	eventually(t, "it has one again", func() bool { return slices.Contains(names(), "v1.example.com") })
	// A server that was stopped comes back with it, and without those of what it does not serve.
	stale := apiService("old.example.com/v1", "")
	stale.Spec.Service, stale.Spec.InsecureSkipTLSVerify, stale.Labels = nil, false, map[string]string{"kube-aggregator.kubernetes.io/automanaged": "onstart"}
	must(client.Create(t.Context(), stale, metav1.CreateOptions{}))(t)
	if err := client.Delete(t.Context(), "v1.apps", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	c.stop = nil
	c = start(t, dir)
	client = must(apiregistration.NewForConfig(c.config))(t).APIServices()
	if again := names(); !slices.Equal(again, slices.Sorted(slices.Values(append(first, "v1.example.com", "v1beta1.example.com")))) {
		t.Errorf("after a restart: %v", again)
	}
	if err := c.definitions(t).Delete(t.Context(), crd.Name, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	eventually(t, "it goes with its definition", func() bool {
		_, err := client.Get(t.Context(), "v1.example.com", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}
