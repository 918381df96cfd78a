package api

import (
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a server that is wrong says of itself does not spoil the document for others.
func TestAggregatedAPIWithWrongDocuments(t *testing.T) {
	c, ns, f, client := aggregating(t)
	f.serve("/openapi/v2", map[string]any{"swagger": "2.0", "definitions": map[string]any{"com.example.Flunder": map[string]any{"nonsense": 1}}})
	publish(t, c, ns)
	a := must(client.Create(t.Context(), apiService("wardle.example.com/v1", ns), metav1.CreateOptions{}))(t)
	condition(t, client, a.Name, "Passed")
	for _, kind := range []string{"application/json", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"} {
		if a := ask(t, c.config, "GET", "/openapi/v2", "", "Accept: "+kind); a.code != http.StatusOK || !strings.Contains(a.body, "io.k8s.api.core.v1.Pod") || strings.Contains(a.body, "nonsense") {
			t.Errorf("as %s: %d, %d bytes: %.100q", kind, a.code, len(a.body), a.body)
		}
	}
}
