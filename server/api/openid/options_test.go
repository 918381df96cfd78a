package openid

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const own = "https://kubernetes.default.svc.cluster.local"

func TestMistakesAreNamed(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"
	issuer := func(url, rest string) string {
		return head + "jwt:\n- issuer: {url: '" + url + "', audiences: [a]}\n" + rest
	}
	const name = "  claimMappings: {username: {claim: sub, prefix: ''}}\n"
	good := Options{IssuerURL: "https://id.example.com", ClientID: "a", UsernameClaim: "sub"}
	with := func(change func(*Options)) Options { o := good; change(&o); return o }
	for _, tt := range []struct {
		name string
		o    Options
		want string // of the error; empty: none
		off  bool
	}{
		{name: "nothing", o: Options{}, off: true},
		{name: "only what has a default", o: Options{UsernameClaim: "sub"}, off: true},
		{name: "flags", o: good},
		{name: "a client and no issuer", o: Options{ClientID: "a"}, want: "--oidc-issuer-url is missing"},
		{name: "a claim and no issuer", o: Options{UsernameClaim: "email"}, want: "--oidc-issuer-url is missing"},
		{name: "an issuer and no client", o: Options{IssuerURL: "https://id.example.com"}, want: "--oidc-client-id is missing"},
		{name: "an issuer without TLS", o: with(func(o *Options) { o.IssuerURL = "http://id.example.com" }), want: "OpenID Connect: --oidc-issuer-url: Invalid value"},
		{name: "the cluster's own issuer", o: with(func(o *Options) { o.IssuerURL = own }), want: "--oidc-issuer-url: Invalid value"},
		{name: "no file of authorities", o: with(func(o *Options) { o.CAFile = filepath.Join(dir, "none") }), want: "--oidc-ca-file: open "},
		{name: "no authorities in it", o: with(func(o *Options) { o.CAFile = file("ca", "nothing") }), want: "--oidc-ca-file: Invalid value"},
		{name: "an unknown algorithm", o: with(func(o *Options) { o.SigningAlgs = []string{"HS256"} }), want: `--oidc-signing-algs "HS256": want some of [ES256 `},
		{name: "no name of users", o: with(func(o *Options) { o.UsernameClaim = "" }), want: "--oidc-username-claim: Required value"},
		{name: "a file and flags", o: with(func(o *Options) { o.File = "f" }), want: "--authentication-config and --oidc-* exclude each other"},
		{name: "no file", o: Options{File: filepath.Join(dir, "none")}, want: "--authentication-config: open "},
		{name: "a file", o: Options{File: file("good", issuer("https://id.example.com", name)), UsernameClaim: "sub"}},
		{name: "an earlier version", o: Options{File: file("beta", strings.Replace(issuer("https://id.example.com", name), "/v1", "/v1beta1", 1))}},
		{name: "no configuration", o: Options{File: file("text", "hello")}, want: "--authentication-config " + filepath.Join(dir, "text")},
		{name: "an unknown field", o: Options{File: file("field", issuer("https://id.example.com", name+"  nothing: x\n"))}, want: `unknown field "jwt[0].nothing"`},
		{name: "no name", o: Options{File: file("noname", issuer("https://id.example.com", ""))}, want: "jwt[0].claimMappings.username: Required value"},
		{name: "an expression that is none", o: Options{File: file("cel", issuer("https://id.example.com", "  claimMappings: {username: {expression: 'claims.sub +'}}\n"))}, want: "jwt[0].claimMappings.username.expression: Invalid value"},
		{name: "another kind", o: Options{File: file("kind", "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: []\n")}, want: "want an AuthenticationConfiguration"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := tt.o.Load(own)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if err == nil && (c == nil) != tt.off {
				t.Errorf("off: %v, want %v", c == nil, tt.off)
			}
		})
	}
}
