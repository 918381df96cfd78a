package image

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"strings"
)

// Auth is what a registry is shown.
type Auth struct {
	Username, Password string
	IdentityToken      string
	RegistryToken      string
	Owner              string // the Secret that holds it; "" is whoever runs the board
}

// Keyring holds the credentials of a pod's imagePullSecrets.
type Keyring struct{ entries []keyringEntry }

type keyringEntry struct {
	host, path string
	auth       Auth
}

type dockerAuth struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// AddDockerConfig adds the content of a Secret, its owner: of type kubernetes.io/dockerconfigjson, or the older dockercfg, which is the
// same without the outer "auths".
func (k *Keyring) AddDockerConfig(owner string, b []byte) error {
	var outer struct {
		Auths map[string]dockerAuth `json:"auths"`
	}
	if err := json.Unmarshal(b, &outer); err != nil {
		return fmt.Errorf("read registry credentials: %w", err)
	}
	if outer.Auths == nil {
		if err := json.Unmarshal(b, &outer.Auths); err != nil {
			return fmt.Errorf("read registry credentials: %w", err)
		}
	}
	for where, a := range outer.Auths {
		auth := Auth{a.Username, a.Password, a.IdentityToken, a.RegistryToken, owner}
		if a.Auth != "" && a.Username == "" {
			plain, err := base64.StdEncoding.DecodeString(a.Auth)
			if err != nil {
				return fmt.Errorf("read registry credentials of %s: %w", where, err)
			}
			var ok bool
			if auth.Username, auth.Password, ok = strings.Cut(strings.TrimRight(string(plain), "\x00"), ":"); !ok {
				return fmt.Errorf("read registry credentials of %s: auth is not user:password in base64", where)
			}
		}
		where = strings.TrimPrefix(strings.TrimPrefix(where, "https://"), "http://")
		host, rest, _ := strings.Cut(where, "/")
		rest = strings.Trim(rest, "/")
		if rest == "v1" || rest == "v2" { // Docker's own way to write its registry
			rest = ""
		}
		k.entries = append(k.entries, keyringEntry{canonicalHost(host), rest, auth})
	}
	return nil
}

func canonicalHost(h string) string {
	if h == "index.docker.io" || h == "registry-1.docker.io" {
		return "docker.io"
	}
	return h
}

// Lookup returns what may be tried for an image, the most specific first.
func (k *Keyring) Lookup(n Name) []Auth {
	var found []Auth
	longest := -1
	for _, e := range k.entries {
		if ok, _ := path.Match(e.host, n.Registry); !ok && e.host != n.Registry {
			continue
		}
		if e.path != "" && n.Repository != e.path && !strings.HasPrefix(n.Repository, e.path+"/") {
			continue
		}
		if len(e.path) > longest {
			longest = len(e.path)
			found = append([]Auth{e.auth}, found...)
		} else {
			found = append(found, e.auth)
		}
	}
	return found
}
