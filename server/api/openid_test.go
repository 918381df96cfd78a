package api

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/server/api/openid"
)

// issuer signs tokens, and tells over https by which keys they are known.
type issuer struct {
	*httptest.Server
	ca string // file with its certificate

	mu   sync.Mutex
	keys map[string]crypto.Signer // by ID
}

// newIssuer makes one that does not answer yet; its URL is known.
func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{keys: map[string]crypto.Signer{}, ca: filepath.Join(t.TempDir(), "issuer.pem")}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		url := "https://" + r.Host
		json.NewEncoder(w).Encode(map[string]any{"issuer": url, "jwks_uri": url + "/keys", "id_token_signing_alg_values_supported": []string{"RS256", "ES256"}})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{"keys": i.public()})
	})
	i.Server = httptest.NewUnstartedServer(mux)
	i.URL = "https://" + i.Listener.Addr().String()
	t.Cleanup(i.Close)
	return i
}

// begin lets it answer.
func (i *issuer) begin(t *testing.T) {
	t.Helper()
	i.URL = ""
	i.StartTLS()
}

// authority writes the file with the issuer's certificate, which is that of every server of this kind.
func (i *issuer) authority(t *testing.T) *issuer {
	t.Helper()
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	if err := os.WriteFile(i.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return i
}

// key makes a key, by which tokens are known from now on, and forgets those before it.
func (i *issuer) key(t *testing.T, id, algorithm string) {
	t.Helper()
	var k crypto.Signer = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	if algorithm == "RS256" {
		k = must(rsa.GenerateKey(rand.Reader, 2048))(t)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = map[string]crypto.Signer{id: k}
}

var encode = base64.RawURLEncoding.EncodeToString

// public is the issuer's keys as RFC 7517 writes them.
func (i *issuer) public() (all []map[string]string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for id, k := range i.keys {
		switch p := k.Public().(type) {
		case *rsa.PublicKey:
			all = append(all, map[string]string{"kid": id, "kty": "RSA", "use": "sig", "alg": "RS256", "n": encode(p.N.Bytes()), "e": encode(big.NewInt(int64(p.E)).Bytes())})
		case *ecdsa.PublicKey:
			point, err := p.Bytes() // 4, x, y
			if err != nil {
				panic(err)
			}
			all = append(all, map[string]string{"kid": id, "kty": "EC", "use": "sig", "alg": "ES256", "crv": "P-256", "x": encode(point[1:33]), "y": encode(point[33:])})
		}
	}
	return all
}

// token is signed with a key (RFC 7515); claims are added to, or replace, those of a good one. One that is nil is left out.
func (i *issuer) token(t *testing.T, id string, claims map[string]any) string {
	t.Helper()
	i.mu.Lock()
	k := i.keys[id]
	i.mu.Unlock()
	algorithm := "ES256"
	if _, is := k.(*rsa.PrivateKey); is {
		algorithm = "RS256"
	}
	all := map[string]any{"iss": i.URL, "aud": "bramble", "sub": "jane", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
	for name, v := range claims {
		if all[name] = v; v == nil {
			delete(all, name)
		}
	}
	header, body := must(json.Marshal(map[string]string{"alg": algorithm, "kid": id, "typ": "JWT"}))(t), must(json.Marshal(all))(t)
	signed := encode(header) + "." + encode(body)
	sum := sha256.Sum256([]byte(signed))
	if k, is := k.(*ecdsa.PrivateKey); is {
		r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return signed + "." + encode(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
	}
	return signed + "." + encode(must(k.Sign(rand.Reader, sum[:], crypto.SHA256))(t))
}

// whoami is what `kubectl auth whoami` asks.
func (c *cluster) whoami(t *testing.T, token string) (authenticationv1.UserInfo, error) {
	t.Helper()
	r, err := clientOf(t, c.with(token)).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	return r.Status.UserInfo, nil
}

// An issuer that is named by flags lets in, from when it is there on: whoever has a token for this cluster, as long as it lasts.
func TestOpenIDByFlags(t *testing.T) {
	t.Parallel() // it waits for the issuer to be asked again
	i := newIssuer(t).authority(t)
	i.key(t, "first", "RS256")
	url := i.URL
	c := start(t, t.TempDir(), func(c *Config) {
		c.OpenID = openid.Options{IssuerURL: url, ClientID: "bramble", CAFile: i.ca, UsernameClaim: "sub", UsernamePrefix: "id:", GroupsClaim: "groups", GroupsPrefix: "id:",
			RequiredClaims: map[string]string{"tier": "gold"}, SigningAlgs: []string{"RS256", "ES256"}}
	})
	jane := map[string]any{"groups": []string{"team"}, "tier": "gold"}
	if _, err := c.whoami(t, i.token(t, "first", jane)); !apierrors.IsUnauthorized(err) {
		t.Errorf("before the issuer is there: %v", err)
	}
	i.begin(t)
	eventually(t, "the issuer is found", func() bool { _, err := c.whoami(t, i.token(t, "first", jane)); return err == nil })
	me := must(c.whoami(t, i.token(t, "first", jane)))(t)
	if me.Username != "id:jane" || !reflect.DeepEqual(me.Groups, []string{"id:team", "system:authenticated"}) {
		t.Errorf("I am %+v", me)
	}

	// Rights come by groups.
	view := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "team"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}}
	nodes := clientOf(t, c.with(i.token(t, "first", jane))).CoreV1().Nodes()
	if _, err := nodes.List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("without rights: %v", err)
	}
	view.Subjects = []rbacv1.Subject{{Kind: "Group", APIGroup: rbacv1.GroupName, Name: "id:team"}}
	must(c.client.RbacV1().ClusterRoleBindings().Create(t.Context(), view, metav1.CreateOptions{}))(t)
	eventually(t, "the group's rights count", func() bool { _, err := nodes.List(t.Context(), metav1.ListOptions{}); return err == nil })

	with := func(claims ...any) map[string]any {
		all := maps.Clone(jane)
		for n := 0; n < len(claims); n += 2 {
			all[claims[n].(string)] = claims[n+1]
		}
		return all
	}
	other := newIssuer(t)
	other.key(t, "first", "RS256")
	good := i.token(t, "first", jane)
	for name, token := range map[string]string{
		"one that has expired":         i.token(t, "first", with("exp", time.Now().Add(-time.Minute).Unix())),
		"one that is not valid yet":    i.token(t, "first", with("nbf", time.Now().Add(time.Hour).Unix())),
		"one for another program":      i.token(t, "first", with("aud", "another")),
		"one of another issuer":        i.token(t, "first", with("iss", "https://another.example.com")),
		"one without what it must say": i.token(t, "first", map[string]any{"groups": []string{"team"}}),
		"one that says it otherwise":   i.token(t, "first", with("tier", "silver")),
		"one without a name":           i.token(t, "first", with("sub", nil)),
		"one that another has signed":  other.token(t, "first", with("iss", i.URL)),
		"one that was changed":         good[:len(good)-8] + "AAAAAAAA",
		"one that nobody has signed":   encode([]byte(`{"alg":"none"}`)) + "." + strings.Split(good, ".")[1] + ".",
	} {
		if me, err := c.whoami(t, token); !apierrors.IsUnauthorized(err) {
			t.Errorf("%s: %+v %v", name, me, err)
		}
	}

	// A key that is not known yet is asked for; the one before it goes.
	before := i.token(t, "first", with("sub", "old"))
	i.key(t, "second", "ES256")
	if me, err := c.whoami(t, i.token(t, "second", jane)); err != nil || me.Username != "id:jane" {
		t.Errorf("by the new key: %+v %v", me, err)
	}
	if me, err := c.whoami(t, before); !apierrors.IsUnauthorized(err) {
		t.Errorf("by the old key: %+v %v", me, err)
	}
	// What else lets in, does.
	if a := ask(t, c.config, "GET", "/api/v1/nodes", ""); a.code != http.StatusOK {
		t.Errorf("the administrator: %d", a.code)
	}
}

// A file says more: several issuers, and rules and names by expressions; and where who shows nothing is let in.
func TestOpenIDByAFile(t *testing.T) {
	t.Parallel()
	i := newIssuer(t).authority(t)
	i.key(t, "k", "ES256")
	i.begin(t)
	authority := strings.ReplaceAll(strings.TrimSpace(string(must(os.ReadFile(i.ca))(t))), "\n", "\n      ")
	file := filepath.Join(t.TempDir(), "authentication.yaml")
	text := `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: ` + i.URL + `
    audiences: [bramble, kubectl]
    audienceMatchPolicy: MatchAny
    certificateAuthority: |
      ` + authority + `
  claimValidationRules:
  - expression: claims.?email_verified.orValue(false) == true
    message: the address was not verified
  claimMappings:
    username:
      expression: '"mail:" + claims.email'
    groups:
      expression: dyn(claims.roles).filter(r, r != "none")
    uid:
      expression: claims.sub
    extra:
    - key: example.com/tenant
      valueExpression: claims.tenant
  userValidationRules:
  - expression: "!user.groups.exists(g, g.startsWith('system:'))"
    message: groups of the system are not for people
- issuer:
    url: https://nowhere.invalid
    audiences: [bramble]
  claimMappings:
    username: {claim: sub, prefix: ""}
anonymous:
  enabled: true
  conditions:
  - path: /livez
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := start(t, t.TempDir(), func(c *Config) { c.OpenID = openid.Options{File: file, UsernameClaim: openid.DefaultUsernameClaim} })
	claims := func(more ...any) map[string]any {
		all := map[string]any{"aud": "kubectl", "email": "jane@example.com", "email_verified": true, "roles": []string{"dev", "none"}, "tenant": "a"}
		for n := 0; n < len(more); n += 2 {
			all[more[n].(string)] = more[n+1]
		}
		return all
	}
	eventually(t, "the issuer is found", func() bool { _, err := c.whoami(t, i.token(t, "k", claims())); return err == nil })
	me := must(c.whoami(t, i.token(t, "k", claims())))(t)
	want := authenticationv1.UserInfo{Username: "mail:jane@example.com", UID: "jane", Groups: []string{"dev", "system:authenticated"}, Extra: map[string]authenticationv1.ExtraValue{
		"example.com/tenant": {"a"},
	}}
	delete(me.Extra, "authentication.kubernetes.io/credential-id")
	if !reflect.DeepEqual(me, want) {
		t.Errorf("I am %+v, want %+v", me, want)
	}
	for name, token := range map[string]string{
		"an address that was not verified": i.token(t, "k", claims("email_verified", false)),
		"a group of the system":            i.token(t, "k", claims("roles", []string{"system:masters"})),
		"another program":                  i.token(t, "k", claims("aud", "another")),
	} {
		if me, err := c.whoami(t, token); !apierrors.IsUnauthorized(err) {
			t.Errorf("%s: %+v %v", name, me, err)
		}
	}
	if a := ask(t, c.with(""), "GET", "/livez", ""); a.code != http.StatusOK {
		t.Errorf("nobody at /livez: %d", a.code)
	}
	if a := ask(t, c.with(""), "GET", "/version", ""); a.code != http.StatusUnauthorized {
		t.Errorf("nobody at /version: %d", a.code)
	}
}

// A file that changes while the server runs counts from then on, when it is good and its issuers are there; until then, what was known
// before does.
func TestOpenIDByAFileThatChanges(t *testing.T) {
	t.Parallel()
	var issuers []*issuer
	for range 3 {
		i := newIssuer(t).authority(t)
		i.key(t, "k", "ES256")
		issuers = append(issuers, i)
	}
	first, second, late := issuers[0], issuers[1], issuers[2]
	first.begin(t)
	second.begin(t)
	file := filepath.Join(t.TempDir(), "authentication.yaml")
	write := func(text string) {
		t.Helper()
		err := os.WriteFile(file+".new", []byte(text), 0o600)
		if err == nil {
			err = os.Rename(file+".new", file)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	authority := strings.ReplaceAll(strings.TrimSpace(string(must(os.ReadFile(first.ca))(t))), "\n", "\n      ")
	letIn := func(i *issuer) string {
		return "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer:\n    url: " + i.URL + "\n    audiences: [bramble]\n    certificateAuthority: |\n      " + authority +
			"\n  claimMappings:\n    username: {claim: sub, prefix: ''}\n"
	}
	write(letIn(first))
	c := start(t, t.TempDir(), func(c *Config) { c.OpenID = openid.Options{File: file, UsernameClaim: openid.DefaultUsernameClaim} })
	asked := 0
	good := func(i *issuer) bool { // a token that was found good is not looked at again for a while: each is another
		asked++
		_, err := c.whoami(t, i.token(t, "k", map[string]any{"jti": fmt.Sprint(asked)}))
		return err == nil
	}
	counted := func(status string) string {
		for line := range strings.Lines(ask(t, c.config, "GET", "/metrics", "").body) {
			if strings.HasPrefix(line, "apiserver_authentication_config_controller_automatic_reloads_total{") && strings.Contains(line, `status="`+status+`"`) {
				return strings.TrimSpace(line[strings.LastIndex(line, " "):])
			}
		}
		return ""
	}
	eventually(t, "the issuer is found", func() bool { return good(first) })
	if good(second) {
		t.Error("an issuer lets in that is not in the file")
	}

	write(letIn(second))
	eventually(t, "the other issuer is found", func() bool { return good(second) })
	if good(first) {
		t.Error("an issuer lets in that is in the file no more")
	}
	eventually(t, "it is counted", func() bool { return counted("success") == "1" })

	for n, bad := range []string{"jwt: [", letIn(first) + "nothing: x\n", strings.Replace(letIn(first), "https://", "http://", 1), letIn(first) + "anonymous: {enabled: false}\n"} {
		write(bad)
		eventually(t, "the failure is counted", func() bool { return counted("failure") == fmt.Sprint(n+1) })
		if !good(second) || good(first) {
			t.Errorf("a bad file changed something:\n%s", bad)
		}
	}
	if a := ask(t, c.with(""), "GET", "/version", ""); a.code != http.StatusOK {
		t.Errorf("nobody at /version: %d", a.code)
	}

	url := late.URL
	write(letIn(late))
	time.Sleep(100 * time.Millisecond)
	if !good(second) {
		t.Error("an issuer that is away took another's place")
	}
	late.begin(t)
	if late.URL != url {
		t.Fatal(late.URL)
	}
	eventually(t, "the issuer that was away is found", func() bool { return good(late) })
	if good(second) {
		t.Error("an issuer lets in that is in the file no more")
	}
}

// An issuer that accepts connections and says nothing holds nothing up.
func TestASilentIssuerHoldsNothingUp(t *testing.T) {
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer l.Close()
	c := start(t, t.TempDir(), func(c *Config) {
		c.OpenID = openid.Options{IssuerURL: "https://" + l.Addr().String(), ClientID: "bramble", UsernameClaim: "sub"}
	})
	if a := ask(t, c.config, "GET", "/readyz", ""); a.code != http.StatusOK {
		t.Errorf("%d %s", a.code, a.body)
	}
}
