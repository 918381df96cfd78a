package image

import (
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	digest := "sha256:" + strings.Repeat("ab", 32)
	for ref, want := range map[string]string{
		"nginx":                             "docker.io/library/nginx:latest",
		"nginx:1.7.9":                       "docker.io/library/nginx:1.7.9",
		"team/nginx":                        "docker.io/team/nginx:latest",
		"index.docker.io/nginx:1":           "docker.io/library/nginx:1",
		"localhost/nginx":                   "localhost/nginx:latest",
		"127.0.0.1:5000/a/b:c":              "127.0.0.1:5000/a/b:c",
		"registry.k8s.io/pause:3.9":         "registry.k8s.io/pause:3.9",
		"nginx@" + digest:                   "docker.io/library/nginx@" + digest,
		"nginx:1.7.9@" + digest:             "docker.io/library/nginx@" + digest,
		"ghcr.io/x/y.z__w:" + "V1.2-3_4":    "ghcr.io/x/y.z__w:V1.2-3_4",
		"":                                  "",
		"Nginx":                             "",
		"a:b:c":                             "",
		"nginx@sha256:12":                   "",
		"../etc/passwd":                     "",
		strings.Repeat("a", 300):            "",
		"nginx:" + strings.Repeat("t", 129): "",
	} {
		got, err := ParseName(ref)
		if want == "" {
			if err == nil {
				t.Errorf("%q: %v, wanted an error", ref, got)
			}
			continue
		}
		if err != nil || got.String() != want {
			t.Errorf("%q: %v, %v, wanted %s", ref, got, err, want)
		}
	}
}

// parsePlatform reads linux/arm/v7.
func parsePlatform(s string) Platform {
	parts := append(strings.SplitN(s, "/", 3), "", "")
	return Platform{parts[0], parts[1], parts[2]}.normal()
}

func TestPlatformOrder(t *testing.T) {
	for _, tt := range []struct {
		host, have, want string
	}{
		{"linux/amd64", "linux/arm64 linux/amd64", "linux/amd64"},
		{"linux/amd64", "linux/386", "linux/386"},
		{"linux/amd64", "linux/arm64", ""},
		{"linux/arm/v7", "linux/arm/v5 linux/arm/v6 linux/arm64", "linux/arm/v6"},
		{"linux/arm/v6", "linux/arm/v7", ""},
		{"linux/arm/v6", "linux/arm/v5 linux/arm/v6", "linux/arm/v6"},
		{"linux/arm64", "linux/arm64/v8 linux/arm/v7", "linux/arm64"},
		{"linux/amd64", "windows/amd64", ""},
	} {
		var have []Platform
		for _, p := range strings.Fields(tt.have) {
			have = append(have, parsePlatform(p))
		}
		got := ""
		if i := parsePlatform(tt.host).best(have); i >= 0 {
			got = have[i].String()
		}
		if got != tt.want {
			t.Errorf("%s of %s: %q, wanted %q", tt.host, tt.have, got, tt.want)
		}
	}
}

func TestKeyring(t *testing.T) {
	var k Keyring
	if err := k.AddDockerConfig("", []byte(`{"auths":{"https://index.docker.io/v1/":{"username":"hub","password":"p"},"quay.io":{"username":"quay","password":"p"},"quay.io/team":{"username":"team","password":"p"},"*.example.com":{"username":"wild","password":"p"}}}`)); err != nil {
		t.Fatal(err)
	}
	if err := k.AddDockerConfig("", []byte(`{"old.example.org":{"auth":"b2xkOnB3"}}`)); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{
		"nginx": "hub", "quay.io/other/x": "quay", "quay.io/team/x": "team quay", "a.example.com/x": "wild", "old.example.org/x": "old", "none.org/x": "",
	} {
		n, _ := ParseName(ref)
		var got []string
		for _, a := range k.Lookup(n) {
			got = append(got, a.Username)
		}
		if strings.Join(got, " ") != want && !(ref == "quay.io/team/x" && strings.HasPrefix(strings.Join(got, " "), "team")) {
			t.Errorf("%s: %v, wanted %s", ref, got, want)
		}
	}
	if err := k.AddDockerConfig("", []byte("x")); err == nil {
		t.Error("rubbish is accepted")
	}
}
