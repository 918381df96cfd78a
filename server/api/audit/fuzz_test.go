package audit

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
	upstream "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// FuzzPolicy: a policy is refused, or every request is judged by it and answered.
func FuzzPolicy(f *testing.F) {
	const head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n"
	for _, p := range []string{
		"", "null", "[]", "{}", head, head + "rules: []\n", head + "rules:\n- level: Metadata\n", head + "rules:\n- level: None\n  users: [jane]\n  verbs: [get]\n  resources: [{group: '', resources: [pods/*, '*', pods/log], resourceNames: [a]}]\n",
		head + "omitStages: [RequestReceived, Nothing]\nrules:\n- level: Request\n", head + "rules:\n- level: Everything\n", head + "rules:\n- level: Request\n  nonResourceURLs: ['/healthz*', '*', 'a*b', '']\n", head + "rules:\n- level: Request\n  resources: [{group: a, resources: ['*/scale', 'a/b/c', '/']}]\n  namespaces: ['']\n",
		head + "omitManagedFields: 1\nrules: [null]\n", "apiVersion: audit.k8s.io/v9\nkind: Policy\nrules:\n- level: Metadata\n", "a: &a [*a]\n",
	} {
		f.Add([]byte(p), "/api/v1/namespaces/a/pods/b/log")
		f.Add([]byte(p), "/healthz")
	}
	asked := &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	f.Fuzz(func(t *testing.T, text []byte, path string) {
		dir := t.TempDir()
		file := filepath.Join(dir, "policy.yaml")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Open(Options{Path: filepath.Join(dir, "log"), Policy: file}, slog.New(slog.DiscardHandler))
		if err != nil {
			return
		}
		defer l.Close()
		r := (&http.Request{Method: http.MethodGet, URL: &url.URL{Path: path}, Header: http.Header{}, RemoteAddr: "127.0.0.1:1"}).WithContext(upstream.WithAuditContext(context.Background()))
		info, err := asked.NewRequestInfo(r)
		if err != nil {
			return
		}
		ctx := request.WithUser(request.WithRequestInfo(r.Context(), info), &user.DefaultInfo{Name: "jane", Groups: []string{"a"}})
		answered := false
		h := l.Requests(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { answered = true }), func(*http.Request, *request.RequestInfo) bool { return false })
		h.ServeHTTP(httptest.NewRecorder(), r.WithContext(ctx))
		if !answered {
			t.Fatalf("%q: %s is not answered", text, path)
		}
	})
}
