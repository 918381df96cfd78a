package api

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// trickle sends a byte now and then until the other end does not want any more.
func trickle(c net.Conn) {
	for {
		if _, err := c.Write([]byte("x")); err != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Whoever sends his header or his body by drops, or begins to and stops, is cut off.
func TestSlowSenders(t *testing.T) {
	t.Parallel()
	c, _ := shared(t)
	const post = "POST /api/v1/namespaces/default/configmaps?timeout=1s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
	for _, tt := range []struct {
		name, begin string
		drops       bool
		want        int // of the answer; 0: none
	}{
		{"a header by drops", "GET /version HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", true, 0},
		{"half a header", "GET /version HTTP/1.1\r\nHost: loc", false, 0},
		{"no header", "", false, 0},
		{"a body by drops", post + "Content-Length: 100000\r\n\r\n{\"data\": \"", true, http.StatusGatewayTimeout},
		{"half a body", post + "Content-Length: 100\r\n\r\n{", false, http.StatusGatewayTimeout},
		{"a body in pieces, half of it", post + "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", false, http.StatusGatewayTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			conn := c.connection(t, "http/1.1")
			if _, err := io.WriteString(conn, tt.begin); err != nil {
				t.Fatal(err)
			}
			if tt.drops {
				go trickle(conn)
			}
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			switch {
			case tt.want == 0 && err == nil:
				t.Errorf("an answer: %s", res.Status)
			case tt.want != 0 && err != nil:
				t.Errorf("no answer: %v", err)
			case tt.want != 0 && res.StatusCode != tt.want:
				body, _ := io.ReadAll(res.Body)
				t.Errorf("%s %s", res.Status, body)
			}
		})
	}
}

// What takes longer than its client wants to wait, or than anybody may, is a 504 in upstream's words.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	c, ns := shared(t)
	over := make(chan struct{})
	slow := answering(t, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		<-over
		return &admissionv1.AdmissionResponse{Allowed: true}
	})
	t.Cleanup(func() { close(over) })
	hooks := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: ns}}
	none, ignore, limit := admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.Ignore, int32(30)
	for _, name := range []string{"first", "second", "third"} { // which are asked one after the other, each for half a minute
		hooks.Webhooks = append(hooks.Webhooks, admissionregistrationv1.MutatingWebhook{
			Name: name + ".example.com", Rules: onConfigMaps, NamespaceSelector: in(ns), SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
			FailurePolicy: &ignore, TimeoutSeconds: &limit, ClientConfig: slow,
		})
	}
	must(c.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(), hooks, metav1.CreateOptions{}))(t)
	// Who says it first, the handler or the filter before it, depends on the machine: "requested timeout" or "the allotted timeout".
	const late = "Timeout: request did not complete within "
	for _, tt := range []struct {
		query string
		code  int
		body  string
	}{
		{"", http.StatusGatewayTimeout, late}, // what writes has 34 s, upstream
		{"?timeout=1s", http.StatusGatewayTimeout, late},
		{"?timeout=1h", http.StatusGatewayTimeout, late},
		{"?timeout=soon", http.StatusBadRequest, "invalid timeout specified in the request URL"},
	} {
		t.Run(tt.query, func(t *testing.T) {
			t.Parallel() // some wait long
			a := ask(t, c.config, "POST", "/api/v1/namespaces/"+ns+"/configmaps"+tt.query, `{"metadata":{"name":"m"}}`, "Content-Type: application/json")
			if a.code != tt.code || !strings.Contains(a.body, tt.body) {
				t.Errorf("%d %s", a.code, a.body)
			}
		})
	}
}

// A body of more than 3 MiB is refused, whether it says so at once or not.
func TestLargeBodies(t *testing.T) {
	c, ns := shared(t)
	h := must(rest.HTTPClientFor(c.config))(t)
	for name, body := range map[string]io.Reader{
		"with a length": strings.NewReader(strings.Repeat(" ", maxBodyBytes+1)),
		"in pieces":     struct{ io.Reader }{strings.NewReader(strings.Repeat(" ", maxBodyBytes+1))},
	} {
		r := must(http.NewRequestWithContext(t.Context(), "POST", c.url+"/api/v1/namespaces/"+ns+"/configmaps", body))(t)
		r.Header.Set("Content-Type", "application/json")
		res := must(h.Do(r))(t)
		got := string(must(io.ReadAll(res.Body))(t))
		res.Body.Close()
		if res.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(got, "Request entity too large: limit is 3145728") {
			t.Errorf("%s: %d %s", name, res.StatusCode, got)
		}
	}
}
