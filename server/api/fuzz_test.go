package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	restful "github.com/emicklei/go-restful/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

// direct puts requests to the handlers of a real server with nothing between that would refuse them first.
type direct struct {
	*cluster
	ns    string
	admin []*x509.Certificate
}

func newDirect(f *testing.F) *direct {
	f.Helper()
	c, err := common()
	if err != nil {
		f.Fatal(err)
	}
	d := &direct{cluster: c, ns: fmt.Sprintf("fuzz-%d", namespaces.Add(1))}
	block, _ := pem.Decode(c.config.CertData)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		f.Fatal(err)
	}
	d.admin = []*x509.Certificate{certificate}
	if _, err := c.client.CoreV1().Namespaces().Create(f.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: d.ns}}, metav1.CreateOptions{}); err != nil {
		f.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := c.client.CoreV1().ServiceAccounts(d.ns).Create(f.Context(), account, metav1.CreateOptions{}); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { // nothing of it is left to those that come after
		maps := c.client.CoreV1().ConfigMaps(d.ns)
		if err := maps.DeleteCollection(context.Background(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
			f.Error(err)
		}
	})
	return d
}

// ask sends a request as whom the certificates name. The answer of a stream ends where it begins.
func (d *direct) ask(t *testing.T, certificates []*x509.Certificate, method, path, query string, body []byte, header http.Header) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if header == nil {
		header = http.Header{}
	}
	u := &url.URL{Path: path, RawQuery: query}
	r := (&http.Request{
		Method: method, URL: u, RequestURI: u.RequestURI(), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: "x", RemoteAddr: "127.0.0.1:1",
		Header: header, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), TLS: &tls.ConnectionState{PeerCertificates: certificates},
	}).WithContext(ctx)
	w := &directWriter{recorder: recorder{header: http.Header{}, code: http.StatusOK}, begun: func() {}}
	if streams(r) {
		w.begun = cancel
	}
	d.handler.ServeHTTP(w, r)
	a := answer{w.code, w.header, w.body.String()}
	what := fmt.Sprintf("%s %q ? %q %.200q %v", method, path, query, body, header)
	if a.code >= 500 && !upstreamsToo(a, header) {
		t.Fatalf("%s: %d %.600s", what, a.code, a.body)
	}
	if a.code >= 400 && method != http.MethodHead && strings.HasPrefix(a.header.Get("Content-Type"), "application/json") {
		var s metav1.Status
		if err := json.Unmarshal([]byte(a.body), &s); err != nil || s.Kind != "Status" || int(s.Code) != a.code || s.Status != metav1.StatusFailure {
			t.Fatalf("%s: %d without a Status of the same code: %.600s", what, a.code, a.body)
		}
	}
	return a
}

// upstreamsToo tells answers by which upstream's server, when it is asked the same, says that it is at fault where a client is.
func upstreamsToo(a answer, asked http.Header) bool {
	switch a.code {
	case 500:
		var s metav1.Status
		if strings.Contains(a.body, "yaml: control characters are not allowed") { // which JSON has, and protobuf
			return true
		}
		if json.Unmarshal([]byte(a.body), &s) != nil { // of /api/v1/watch and /api/v1/proxy
			return strings.Contains(a.body, "unable to determine kind and namespace from url")
		}
		if s.Kind != "Status" || s.Reason != "" {
			return false
		}
		switch asked.Get("Content-Type") {
		case "application/strategic-merge-patch+json", "application/apply-patch+yaml": // what cannot be merged is an error of no kind
			return true
		}
		return strings.Contains(s.Message, "strconv.ParseUint: parsing") // a revision that is no number, but of a list
	case 504:
		return strings.Contains(a.body, "Too large resource version")
	case 503:
		return strings.Contains(a.body, "no endpoints available for service") // of the proxy, also to a service that is not there
	}
	return false
}

// directWriter is an answer as upstream's wrappers want one.
type directWriter struct {
	recorder
	begun func()
}

func (w *directWriter) WriteHeader(code int) {
	w.recorder.WriteHeader(code)
	w.begun()
}

func (w *directWriter) Write(b []byte) (int, error) {
	w.begun()
	return w.recorder.Write(b)
}

func (w *directWriter) Flush()                   { w.recorder.WriteHeader(http.StatusOK) }
func (w *directWriter) CloseNotify() <-chan bool { return make(chan bool) }

// FuzzPath: whatever path and query are asked for, the answer is one that the API has, and nothing is written.
func FuzzPath(f *testing.F) {
	d := newDirect(f)
	if _, err := d.client.CoreV1().ConfigMaps(d.ns).Create(f.Context(), configMap("a", "k", "v"), metav1.CreateOptions{}); err != nil {
		f.Fatal(err)
	}
	for _, e := range malformed(d.ns) {
		path, query, _ := strings.Cut(e.path, "?")
		f.Add(0, path, query)
	}
	maps := "/api/v1/namespaces/" + d.ns + "/configmaps"
	for _, p := range []string{
		"", "/", "//", "*", "/api", "/apis/", "/apis/apps", "/api/v1/", "/api/v1/watch", "/api/v1/watch/namespaces/" + d.ns + "/configmaps/a", "/api/v1/proxy", "/api/v1/namespaces//configmaps",
		"/api/v1/namespaces/\x00/configmaps/\xff", "/api/v1/namespaces/%2e%2e/configmaps", maps + "/a/", maps + "/../a", maps + "/a/status", "/openapi/v2", "/openapi/v3/", "/openapi/v3/../v2",
		"/openapi/v3/apis/apps/v1", "/openapi/v3/..", "/healthz/", "/livez/ping", "/readyz/poststarthook", "/metrics", "/version", "/.well-known/openid-configuration", "/openid/v1/jwks", "/apis/metrics.k8s.io/v1beta1/nodes",
		"/apis/metrics.k8s.io/v1beta1/namespaces/x/pods/y", "/api/v1/nodes/x/proxy/metrics", "/api/v1/namespaces/x/services/y:z/proxy", "/api/v1/namespaces/" + d.ns + "/pods/x/exec", "/api/v1/componentstatuses/etcd-0",
		"/apis/extensions/v1beta1/ingresses", "/apis/batch/v2alpha1/cronjobs", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", strings.Repeat("/a", 5000), "/" + strings.Repeat("a", 1<<16),
	} {
		f.Add(0, p, "")
	}
	for _, q := range []string{
		"watch=true", "watch=true&resourceVersion=1", "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", "watch=1&timeoutSeconds=-1", "watch=maybe", "limit=-1", "limit=1&continue=" + strings.Repeat("A", 3000),
		"resourceVersion=-1", "resourceVersion=99999999999999999999", "resourceVersion=0&resourceVersionMatch=Exact", "resourceVersionMatch=Nothing&resourceVersion=1", "labelSelector=a in (", "fieldSelector=metadata.name=a,,", "timeoutSeconds=abc",
		"timeout=-1s", "timeout=1h", "pretty=true", "%zz=1", ";", "a=1;b=2", "&&&=", "limit=1&limit=2", "fieldSelector=%00", "includeObject=Everything", "export=true", "dryRun=Some", "watch=1&watch=0", "labelSelector=%ff",
	} {
		f.Add(0, maps, q)
		f.Add(1, maps+"/a", q)
	}
	for m := range readers {
		f.Add(m, maps+"/a", "")
	}
	f.Fuzz(func(t *testing.T, method int, path, query string) {
		if strings.Contains(path, "/proxy") && strings.Contains(path, "/services/kubernetes") {
			t.Skip("it reaches for an address that is not there")
		}
		before := d.db.Revision()
		a := d.ask(t, d.admin, readers[uint(method)%uint(len(readers))], path, query, nil, nil)
		if after := d.db.Revision(); after != before {
			t.Fatalf("%q ? %q: %d, and revision %d became %d", path, query, a.code, before, after)
		}
	})
}

// readers are methods that change nothing, some of which nobody serves.
var readers = []string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodConnect, "PROPFIND", "get", ""}

// FuzzHeaders: whatever headers say, the answer is one that the API has, and one that was given is of a type that was asked for.
func FuzzHeaders(f *testing.F) {
	d := newDirect(f)
	if _, err := d.client.CoreV1().ConfigMaps(d.ns).Create(f.Context(), configMap("a", "k", "v"), metav1.CreateOptions{}); err != nil {
		f.Fatal(err)
	}
	const table = "application/json;as=Table;v=v1;g=meta.k8s.io"
	for _, accept := range []string{
		"", "*/*", "application/*", "application/json", "application/yaml", "application/cbor", "application/vnd.kubernetes.protobuf", table, table + ",application/json", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
		"application/json;as=Nothing;v=v1;g=meta.k8s.io", "application/json;q=0", ";", ",", "a/b/c", "application/json;", "application/json;as", "application/vnd.kubernetes.protobuf;stream=watch", "application/json;as=Table;v=v9;g=meta.k8s.io", "\xff",
		"application/json;as=APIGroupDiscoveryList;v=v2;g=apidiscovery.k8s.io", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf", strings.Repeat("application/json,", 3000),
	} {
		for p := range headerPaths {
			f.Add(p, "Accept", accept)
		}
	}
	for _, h := range []string{
		"Accept-Encoding: gzip", "Accept-Encoding: br;q=1.0, *;q=0", "If-None-Match: \"x\"", "Impersonate-User: jane", "Impersonate-Group: system:masters", "Impersonate-Extra-A%zz: b", "Impersonate-Uid: 1", "Impersonate-User: system:serviceaccount:a:b:c",
		"Impersonate-User: system:node:", "Connection: Upgrade", "Upgrade: websocket", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v9", "Content-Type: application/json; charset=\xff", "Content-Encoding: gzip", "X-Remote-User: admin", "X-Forwarded-For: x,,", "Audit-Id: \x00",
		"Traceparent: 00-x", "User-Agent: " + strings.Repeat("x", 10000), "Sec-Websocket-Protocol: base64url.bearer.authorization.k8s.io.!!!", "Expect: 200-ok", "Transfer-Encoding: gzip", "Range: bytes=0-", "Origin: null",
	} {
		name, value, _ := strings.Cut(h, ": ")
		for p := range headerPaths {
			f.Add(p, name, value)
		}
	}
	f.Fuzz(func(t *testing.T, path int, name, value string) {
		at, query, _ := strings.Cut(strings.ReplaceAll(headerPaths[uint(path)%uint(len(headerPaths))], "NS", d.ns), "?")
		before := d.db.Revision()
		h := http.Header{http.CanonicalHeaderKey(name): {value}}
		a := d.ask(t, d.admin, http.MethodGet, at, query, nil, h)
		if after := d.db.Revision(); after != before {
			t.Fatalf("%s: %d, and revision %d became %d", at, a.code, before, after)
		}
		if accept := h.Get("Accept"); a.code == 200 && accept != "" && strings.HasPrefix(at, "/api/v1/n") && !strings.Contains(accept, "*") && query == "" {
			if is, _, _ := strings.Cut(a.header.Get("Content-Type"), ";"); !strings.Contains(strings.ToLower(accept), is) {
				t.Fatalf("%s: %q is what came, and %q what was asked for", at, is, accept)
			}
		}
	})
}

var headerPaths = []string{"/api/v1/namespaces/NS/configmaps/a", "/api/v1/namespaces/NS/configmaps", "/api/v1/namespaces/NS/configmaps?watch=1", "/apis", "/openapi/v2", "/openapi/v3/api/v1", "/version", "/api/v1/namespaces/NS/pods/none/exec"}

// FuzzAuthorization: nobody is known by a header who does not have the very token in it.
func FuzzAuthorization(f *testing.F) {
	d := newDirect(f)
	const id, secret = "fuzzed", "0123456789abcdef"
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id}, Type: corev1.SecretTypeBootstrapToken, StringData: map[string]string{"token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true"}}
	secrets := d.client.CoreV1().Secrets(metav1.NamespaceSystem)
	if _, err := secrets.Create(f.Context(), s, metav1.CreateOptions{}); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := secrets.Delete(context.Background(), s.Name, metav1.DeleteOptions{}); err != nil {
			f.Error(err)
		}
	})
	good := id + "." + secret
	signed, err := d.SignToken(f.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: d.ns, Name: "default", UID: "1"}}, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: d.ns, Name: "none"}})
	if err != nil {
		f.Fatal(err)
	}
	part := strings.Split(signed, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`))
	for _, token := range []string{good, signed, id + ".", "." + secret, id + "." + secret + "0", id + "." + secret[1:], "", " ", "..", none + "." + part[1] + ".", none + "." + part[1] + "." + part[2], part[0] + "." + part[1] + ".", part[0] + ".." + part[2], part[0] + ".bm90aGluZw." + part[2], strings.Repeat("a.", 5000), "\x00.\xff", good + " " + good, good + "," + good} {
		f.Add("Bearer "+token, "")
		f.Add("", "base64url.bearer.authorization.k8s.io."+base64.RawURLEncoding.EncodeToString([]byte(token))+", x")
	}
	f.Add("Basic YWRtaW46YWRtaW4=", "base64url.bearer.authorization.k8s.io.")
	f.Add("bearer  "+good, "base64url.bearer.authorization.k8s.io.!,base64url.bearer.authorization.k8s.io.YQ")
	f.Add("Bearer", ",,")
	review := []byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`)
	f.Fuzz(func(t *testing.T, authorization, protocol string) {
		h := http.Header{"Content-Type": {"application/json"}}
		if authorization != "" {
			h.Set("Authorization", authorization)
		}
		if protocol != "" {
			h["Sec-Websocket-Protocol"], h["Connection"], h["Upgrade"] = []string{protocol}, []string{"Upgrade"}, []string{"websocket"}
		}
		a := d.ask(t, nil, http.MethodPost, "/apis/authentication.k8s.io/v1/selfsubjectreviews", "", review, h)
		if a.code == 401 || a.code == 403 { // the second is for nobody in particular
			return
		}
		var is struct {
			Status struct{ UserInfo struct{ Username string } }
		}
		if err := json.Unmarshal([]byte(a.body), &is); err != nil || a.code != 201 {
			t.Fatalf("%q %q: %d %s", authorization, protocol, a.code, a.body)
		}
		switch {
		case strings.Contains(authorization, good), protocolHas(protocol, good):
			if is.Status.UserInfo.Username != "system:bootstrap:"+id {
				t.Fatalf("%q %q: %s", authorization, protocol, a.body)
			}
		default:
			t.Fatalf("%q %q is known as %q", authorization, protocol, is.Status.UserInfo.Username)
		}
	})
}

// protocolHas: one of the protocols is this token, as WebSockets in a browser send it.
func protocolHas(header, token string) bool {
	return slices.ContainsFunc(strings.Split(header, ","), func(p string) bool {
		text, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(strings.TrimSpace(p), "base64url.bearer.authorization.k8s.io."))
		return err == nil && string(text) == token
	})
}

// FuzzSelectors: a list by selectors gives what they select of the list of all, or a refusal where upstream's parsers refuse.
func FuzzSelectors(f *testing.F) {
	d := newDirect(f)
	for n, l := range []labels.Set{nil, {"app": "a"}, {"app": "b", "tier": ""}, {"example.com/x": "1", "n": "10"}, {"app": "a", "n": "9"}} {
		m := configMap(fmt.Sprintf("m%d", n))
		m.Labels = l
		if _, err := d.client.CoreV1().ConfigMaps(d.ns).Create(f.Context(), m, metav1.CreateOptions{}); err != nil {
			f.Fatal(err)
		}
	}
	for _, l := range []string{"", "app", "!app", "app=a", "app==a", "app!=a", "app in (a,b)", "app notin (a)", "app in ()", "n>9", "n<10", "n>x", "app=a,tier", ",", "app=a,", "example.com/x=1", "a/b/c=1", "tier=", "app in (a", "=", "==", "app=a b", "\x00", strings.Repeat("a,", 1000), "app gt 5", "app in (,)"} {
		f.Add(l, "")
	}
	for _, s := range []string{"metadata.name=m1", "metadata.name!=m1", "metadata.name==m1,metadata.namespace=x", "metadata.name", "metadata.name=m1\\,m2", "metadata.name=\\", "data.k=v", "=", ",", "metadata.name=m1,metadata.name=m2", "\xff=\xff"} {
		f.Add("", s)
		f.Add("app=a", s)
	}
	path := "/api/v1/namespaces/" + d.ns + "/configmaps"
	f.Fuzz(func(t *testing.T, byLabel, byField string) {
		all, err := d.client.CoreV1().ConfigMaps(d.ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		a := d.ask(t, d.admin, http.MethodGet, path, url.Values{"labelSelector": {byLabel}, "fieldSelector": {byField}}.Encode(), nil, nil)
		ls, lerr := labels.Parse(byLabel)
		fs, ferr := fields.ParseSelector(byField)
		if lerr != nil || ferr != nil {
			if a.code != 400 {
				t.Fatalf("%q %q: %d %s", byLabel, byField, a.code, a.body)
			}
			return
		}
		for _, r := range fs.Requirements() {
			if r.Field != "metadata.name" && r.Field != "metadata.namespace" {
				if a.code != 400 {
					t.Fatalf("%q: %d %s", byField, a.code, a.body)
				}
				return
			}
		}
		var got corev1.ConfigMapList
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.code != 200 {
			t.Fatalf("%q %q: %d %v %s", byLabel, byField, a.code, err, a.body)
		}
		want := slices.DeleteFunc(all.Items, func(m corev1.ConfigMap) bool {
			return !ls.Matches(labels.Set(m.Labels)) || !fs.Matches(fields.Set{"metadata.name": m.Name, "metadata.namespace": m.Namespace})
		})
		name := func(m corev1.ConfigMap) string { return m.Name }
		if g, w := namesOf(got.Items, name), namesOf(want, name); !slices.Equal(g, w) {
			t.Fatalf("%q %q: %v, want %v", byLabel, byField, g, w)
		}
	})
}

func namesOf[T any](list []T, name func(T) string) (out []string) {
	for _, o := range list {
		out = append(out, name(o))
	}
	return out
}

// FuzzRouter: the tree finds what a search through the list of its routes finds, one segment after the other.
func FuzzRouter(f *testing.F) {
	patterns := []string{
		"/api/v1/pods", "/api/v1/namespaces/{namespace}/pods/{name}", "/api/v1/namespaces/{name}", "/api/v1/namespaces/{namespace}/pods/{name}/proxy", "/api/v1/namespaces/{namespace}/pods/{name}/proxy/{path:*}",
		"/api/v1/watch/pods", "/api/v1/watch/namespaces/{namespace}/pods", "/api/v1", "/api", "/apis/apps/v1/deployments/{name}/scale",
	}
	tree := &router{}
	for _, p := range patterns {
		tree.add(p, p, route{})
	}
	for _, p := range append(patterns, "", "/", "//api//v1", "/api/v1/namespaces//pods/", "/api/v1/namespaces/a/pods/b/proxy//c/", "/api/v1/namespaces/{namespace}", "api", "/api/v1/namespaces/a/pods/b/proxy/x/../..", "\x00") {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got := ""
		for p := range tree.find(path) { // each is alone at its place
			got = p
		}
		if want := search(patterns, strings.Trim(path, "/")); got != want {
			t.Fatalf("%q is %q, want %q", path, got, want)
		}
	})
}

// search keeps those of the patterns that go on as the path does, literally if any does, and remembers the last one that takes all below.
func search(patterns []string, path string) (found string) {
	left := map[string]string{}
	for _, p := range patterns {
		left[p] = strings.Trim(p, "/")
	}
	for path != "" {
		literally, anyhow := map[string]string{}, map[string]string{}
		segment, rest, _ := strings.Cut(path, "/")
		for p, s := range left {
			first, more, _ := strings.Cut(s, "/")
			switch {
			case strings.HasSuffix(first, ":*}"):
				found = p
			case strings.HasPrefix(first, "{"):
				anyhow[p] = more
			case first == segment && s != "":
				literally[p] = more
			}
		}
		if left, path = literally, rest; len(left) == 0 {
			left = anyhow
		}
		if len(left) == 0 {
			return found
		}
	}
	for p, s := range left {
		if s == "" {
			return p
		}
	}
	for p, s := range left {
		if strings.HasSuffix(s, ":*}") && !strings.Contains(s, "/") {
			return p
		}
	}
	return found
}

// FuzzMediaTypes: what the router says to types of content is what go-restful says, whose place it takes.
func FuzzMediaTypes(f *testing.F) {
	types := []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}
	for _, h := range append(types, "", "*/*", "application/*", "application/json;q=1", "text/html, application/yaml", "a,b,,", ";", ";application/json", " application/json ", "application/json, */*;q=0.1", "APPLICATION/JSON", "\xff/\x00") {
		f.Add(http.MethodPost, h, "")
		f.Add(http.MethodGet, "", h)
		f.Add(http.MethodPut, h, h)
	}
	theirs, ours := restful.NewContainer(), &router{}
	ws := (&restful.WebService{}).Path("/x")
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut} {
		ws.Route(ws.Method(m).Path("").Consumes(types...).Produces(types...).To(func(*restful.Request, *restful.Response) {}))
	}
	theirs.Add(ws)
	ours.take(theirs, nil)
	f.Fuzz(func(t *testing.T, method, content, accept string) {
		if !slices.Contains([]string{http.MethodGet, http.MethodPost, http.MethodPut}, method) {
			return
		}
		code := func(serve func(http.ResponseWriter, *http.Request)) int {
			r := httptest.NewRequest(method, "/x", nil)
			for k, v := range map[string]string{"Content-Type": content, "Accept": accept} {
				if v != "" {
					r.Header.Set(k, v)
				}
			}
			w := httptest.NewRecorder()
			serve(w, r)
			return w.Code
		}
		got := code(func(w http.ResponseWriter, r *http.Request) { ours.serve(w, r) })
		if want := code(theirs.ServeHTTP); got != want {
			t.Fatalf("%s of %q as %q: %d, and go-restful says %d", method, content, accept, got, want)
		}
	})
}
