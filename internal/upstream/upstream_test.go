package upstream_test

import (
	"os"
	"regexp"
	"testing"

	"bramble.dev/internal/upstream"
)

func TestVersionIsThatOfGoMod(t *testing.T) {
	data, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^\s*k8s\.io/kubernetes (\S+)`).FindSubmatch(data)
	if m == nil {
		t.Fatal("go.mod names no version of k8s.io/kubernetes")
	}
	if string(m[1]) != upstream.Version {
		t.Errorf("upstream.Version is %s, go.mod has %s", upstream.Version, m[1])
	}
}
