package audit

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// collector takes events, as long as it is up.
type collector struct {
	*httptest.Server
	mu    sync.Mutex
	lists [][]string // of URIs
	down  bool
}

func newCollector(t *testing.T) *collector {
	c := &collector{}
	c.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.down {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		var list auditv1.EventList
		if err := json.NewDecoder(r.Body).Decode(&list); err != nil {
			t.Error(err)
		}
		var uris []string
		for _, e := range list.Items {
			uris = append(uris, e.RequestURI)
		}
		c.lists = append(c.lists, uris)
	}))
	t.Cleanup(c.Close)
	return c
}

// kubeconfig writes the file that names it.
func (c *collector) kubeconfig(t *testing.T) string {
	t.Helper()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw})
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], users: [{name: u, user: {}}],
clusters: [{name: c, cluster: {server: "%s/audit", certificate-authority-data: %s}}]}`, c.URL, base64.StdEncoding.EncodeToString(ca))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (c *collector) taken() [][]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lists
}

func (c *collector) goAway() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = true
}

// asked sends a request that makes something through an audited handler, and gives the code of the answer.
func asked(l *Log, name string) int {
	info := &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}
	h := l.Requests(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) }), func(*http.Request, *request.RequestInfo) bool { return false })
	h = filters.WithRequestInfo(filters.WithAuditInit(h), info)
	w := httptest.NewRecorder()
	r := httptest.NewRequest("POST", "/api/v1/namespaces/default/configmaps?"+name, nil)
	h.ServeHTTP(w, r.WithContext(request.WithUser(r.Context(), &user.DefaultInfo{Name: "jane"})))
	return w.Code
}

func webhookTo(file string, change func(*Webhook)) Options {
	w := DefaultWebhook
	w.Config, w.InitialBackoff = file, time.Millisecond
	change(&w)
	return Options{Webhook: w}
}

// What is asked is sent, many events at once, and the last of them when the server ends.
func TestWebhookInBatches(t *testing.T) {
	c := newCollector(t)
	l, err := Open(webhookTo(c.kubeconfig(t), func(w *Webhook) { w.MaxWait = time.Hour; w.MaxSize = 3 }), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for n := range 5 {
		want = append(want, fmt.Sprintf("/api/v1/namespaces/default/configmaps?%d", n))
		if code := asked(l, fmt.Sprint(n)); code != http.StatusCreated {
			t.Fatalf("answered %d", code)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	asked(l, "late") // of a program that ends after the API
	// Two lists, or three where the end came while the first was being gathered.
	got := c.taken()
	most := 0
	for _, list := range got {
		most = max(most, len(list))
	}
	if all := slices.Sorted(slices.Values(slices.Concat(got...))); !slices.Equal(all, want) || most != 3 || len(got) > 3 {
		t.Errorf("%v, want %v, three at once", got, want)
	}
}

// Whether a request waits for its event to be sent, and is refused when it cannot be, is the mode's.
func TestWebhookModes(t *testing.T) {
	strict := "kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: Metadata}]\n" // which has requests told of when they come
	policy := filepath.Join(t.TempDir(), "policy")
	if err := os.WriteFile(policy, []byte(strict), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		mode       string
		there      bool // the receiver is
		code, sent int
	}{
		{Blocking, true, http.StatusCreated, 2},
		{Blocking, false, http.StatusCreated, 0},
		{BlockingStrict, true, http.StatusCreated, 2},
		{BlockingStrict, false, http.StatusInternalServerError, 0},
		{Batch, false, http.StatusCreated, 0},
	} {
		t.Run(fmt.Sprintf("%s, there: %v", tt.mode, tt.there), func(t *testing.T) {
			c := newCollector(t)
			if !tt.there {
				c.goAway()
			}
			o := webhookTo(c.kubeconfig(t), func(w *Webhook) { w.Mode = tt.mode })
			o.Policy = policy
			l, err := Open(o, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if code := asked(l, "x"); code != tt.code {
				t.Errorf("answered %d, want %d", code, tt.code)
			}
			if got := c.taken(); len(got) != tt.sent {
				t.Errorf("sent %v before the answer, want %d", got, tt.sent)
			}
		})
	}
}

// A receiver that is away neither holds requests up nor the end of the server.
func TestWebhookThatIsAway(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	c.goAway()
	path := filepath.Join(t.TempDir(), "l")
	o := webhookTo(c.kubeconfig(t), func(w *Webhook) { w.InitialBackoff = time.Hour; w.MaxWait = time.Millisecond })
	o.Path = path
	l, err := Open(o, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if code := asked(l, "x"); code != http.StatusCreated {
		t.Errorf("answered %d", code)
	}
	if err := l.Close(); err == nil || !strings.Contains(err.Error(), "has not taken are lost") {
		t.Errorf("closed with %v", err)
	}
	if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), "/configmaps?x") {
		t.Errorf("the file beside it: %q %v", text, err)
	}
}
