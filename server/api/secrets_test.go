package api

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/server/auth"
)

// A new key comes into use with a start: every Secret is then written with it, one that may not be changed among them, and the old
// key is gone, also where two came before a start.
func TestRotatingTheKeyOfSecrets(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "pki", "secrets.key")
	keys := func() [][]byte { return bytes.Fields(must(os.ReadFile(file))(t)) }
	c := start(t, dir)
	immutable := true
	for i := range 120 { // more than a page
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s%d", i)}, StringData: map[string]string{"i": fmt.Sprint(i)}}
		if i == 0 {
			s.Immutable = &immutable
		}
		must(c.client.CoreV1().Secrets("default").Create(t.Context(), s, metav1.CreateOptions{}))(t)
	}
	first := keys()[0]
	var before string
	stop := func() {
		t.Helper()
		if err := c.stop(); err != nil {
			t.Fatal(err)
		}
		c.stop = nil
	}
	for round := range 2 { // what is written the second time has the prefix of its own key already, and not that of before keys had names
		stop()
		if round == 1 {
			// Two keys that no server has seen yet.
			if err := auth.AddSecretsKey(filepath.Join(dir, "pki")); err != nil {
				t.Fatal(err)
			}
		}
		if err := auth.AddSecretsKey(filepath.Join(dir, "pki")); err != nil {
			t.Fatal(err)
		}
		newest := keys()[0]
		c = start(t, dir)
		eventually(t, "the old keys are gone", func() bool { k := keys(); return len(k) == 1 && bytes.Equal(k[0], newest) })
		got := must(c.client.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{}))(t)
		for _, s := range got.Items {
			if want := s.Name[1:]; string(s.Data["i"]) != want {
				t.Errorf("%s holds %q", s.Name, s.Data["i"])
			}
		}
		if len(got.Items) != 120 || got.ResourceVersion == before {
			t.Errorf("%d Secrets at %s, before at %s", len(got.Items), got.ResourceVersion, before)
		}
		before = got.ResourceVersion
	}
	if bytes.Equal(keys()[0], first) {
		t.Error("the first key is still there")
	}
	// Only the new key is left: what it cannot read would fail here.
	stop()
	c = start(t, dir)
	if got := must(c.client.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{}))(t); len(got.Items) != 120 {
		t.Errorf("%d Secrets", len(got.Items))
	}
}
