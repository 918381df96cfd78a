package api

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// Who changed what is written down, also by programs of the process, and who was refused; what a Secret holds is not.
func TestAudit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	c := start(t, t.TempDir(), func(c *Config) { c.Audit.Path = path })
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"password": "hunter2"}}
	must(c.client.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}))(t)
	must(c.client.CoreV1().Secrets("default").Get(t.Context(), "s", metav1.GetOptions{}))(t)
	if a := ask(t, c.with("nonsense"), "DELETE", "/api/v1/namespaces/default/secrets/s", ""); a.code != 401 {
		t.Errorf("refused with %d", a.code)
	}
	if err := c.stop(); err != nil { // which writes what is held back
		t.Fatal(err)
	}
	c.stop = nil
	text := string(must(os.ReadFile(path))(t))
	if strings.Contains(text, "hunter2") || strings.Contains(text, "aHVudGVyM") {
		t.Error("the log holds a password")
	}
	lines := map[string]bool{}
	for line := range strings.Lines(text) {
		var e auditv1.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		resource := ""
		if e.ObjectRef != nil {
			resource = e.ObjectRef.Resource + "/" + e.ObjectRef.Name
		}
		lines[strings.Join([]string{string(e.Stage), e.User.Username, e.Verb, resource}, " ")] = true
	}
	for want, is := range map[string]bool{
		"ResponseComplete bramble-admin create secrets/s": true, "ResponseComplete bramble-admin get secrets/s": false, "ResponseStarted  delete secrets/s": true,
		"ResponseComplete system:apiserver create clusterroles/cluster-admin": true,
	} {
		if lines[want] != is {
			t.Errorf("%q is %v among %d lines", want, lines[want], len(lines))
		}
	}
}
