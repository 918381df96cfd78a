package podspec

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/agent/seam"
)

// SubPath is the path below its volume that a mount shows; "" is the volume itself.
func SubPath(m corev1.VolumeMount, env []string) (string, error) {
	sub := m.SubPath
	if m.SubPathExpr != "" {
		lookup := Lookup(env)
		var missing []string
		sub = Expand(m.SubPathExpr, func(name string) (string, bool) {
			v, ok := lookup(name)
			if !ok || v == "" {
				missing = append(missing, name)
			}
			return v, true
		})
		if len(missing) > 0 {
			return "", fmt.Errorf("missing value for %s", strings.Join(unique(missing), ", "))
		}
	}
	switch {
	case sub == "":
		return "", nil
	case path.IsAbs(sub):
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", sub)
	}
	for part := range strings.SplitSeq(sub, "/") {
		if part == ".." {
			return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", sub)
		}
	}
	return sub, nil
}

// Propagation is a mount's propagation in the kernel's words.
func Propagation(m corev1.VolumeMount) (string, error) {
	if m.MountPropagation == nil {
		return "rprivate", nil
	}
	switch *m.MountPropagation {
	case corev1.MountPropagationNone:
		return "rprivate", nil
	case corev1.MountPropagationHostToContainer:
		return "rslave", nil
	case corev1.MountPropagationBidirectional:
		return "rshared", nil
	}
	return "", fmt.Errorf("invalid MountPropagation mode: %q", *m.MountPropagation)
}

// Absolute is a path in a container; one without a leading slash is taken from its root.
func Absolute(p string) string {
	if path.IsAbs(p) {
		return p
	}
	return "/" + p
}

// ReadOnlyVolume says whether a volume can only be read, however it is mounted.
func ReadOnlyVolume(pod *corev1.Pod, name string) bool {
	for _, v := range pod.Spec.Volumes {
		if v.Name != name {
			continue
		}
		switch {
		case v.ConfigMap != nil, v.Secret != nil, v.DownwardAPI != nil, v.Projected != nil, v.Image != nil:
			return true
		case v.NFS != nil:
			return v.NFS.ReadOnly
		case v.PersistentVolumeClaim != nil:
			return v.PersistentVolumeClaim.ReadOnly
		}
	}
	return false
}

// VerifyNonRoot refuses a container that must not run as root and would.
func VerifyNonRoot(pod *corev1.Pod, c *corev1.Container, imageUser string) error {
	var must bool
	var as *int64
	if s := pod.Spec.SecurityContext; s != nil {
		must = s.RunAsNonRoot != nil && *s.RunAsNonRoot
		as = s.RunAsUser
	}
	if s := c.SecurityContext; s != nil {
		if s.RunAsNonRoot != nil {
			must = *s.RunAsNonRoot
		}
		if s.RunAsUser != nil {
			as = s.RunAsUser
		}
	}
	name := fmt.Sprintf("%q", Full(pod))
	user, _, _ := strings.Cut(imageUser, ":")
	switch {
	case !must:
		return nil
	case as != nil && *as == 0:
		return fmt.Errorf("container's runAsUser breaks non-root policy (pod: %s, container: %s)", name, c.Name)
	case as != nil:
		return nil
	case user == "" || user == "0":
		return fmt.Errorf("container has runAsNonRoot and image will run as root (pod: %s, container: %s)", name, c.Name)
	case strings.Trim(user, "0123456789") != "":
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root (pod: %s, container: %s)", user, name, c.Name)
	}
	return nil
}

// PullAuth are the credentials of a secret that fit a registry.
func PullAuth(s *corev1.Secret, ref string) []seam.Auth {
	type entry struct {
		Username, Password, Auth, RegistryToken string
		IdentityToken                           string
	}
	var entries map[string]entry
	switch s.Type {
	case corev1.SecretTypeDockerConfigJson:
		var file struct{ Auths map[string]entry }
		if json.Unmarshal(s.Data[corev1.DockerConfigJsonKey], &file) != nil {
			return nil
		}
		entries = file.Auths
	case corev1.SecretTypeDockercfg:
		if json.Unmarshal(s.Data[corev1.DockerConfigKey], &entries) != nil {
			return nil
		}
	}
	var out []seam.Auth
	for server, e := range entries {
		if !matches(server, ref) {
			continue
		}
		if e.Username == "" && e.Auth != "" {
			if b, err := base64.StdEncoding.DecodeString(e.Auth); err == nil {
				e.Username, e.Password, _ = strings.Cut(string(b), ":")
			}
		}
		token := e.RegistryToken
		if token == "" {
			token = e.IdentityToken
		}
		out = append(out, seam.Auth{Username: e.Username, Password: e.Password, Token: token})
	}
	return out
}

// Registry is the host of an image's registry, and the repository below it.
func Registry(ref string) (host, repository string) {
	first, rest, ok := strings.Cut(ref, "/")
	if !ok || !strings.ContainsAny(first, ".:") && first != "localhost" {
		return "docker.io", ref
	}
	return first, rest
}

// matches says whether a server of a docker configuration, which may be an URL, hold a path, and
// name hosts by patterns, is the registry of an image.
func matches(server, ref string) bool {
	server = strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	host, where, _ := strings.Cut(server, "/")
	registry, repository := Registry(ref)
	docker := map[string]bool{"docker.io": true, "index.docker.io": true, "registry-1.docker.io": true}
	if docker[host] && docker[registry] {
		return true
	}
	where = strings.Trim(where, "/")
	if where != "" && where != "v1" && where != "v2" && !strings.HasPrefix(repository+"/", where+"/") {
		return false
	}
	want, got := strings.Split(host, "."), strings.Split(registry, ".")
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], got[i]); !ok || err != nil {
			return false
		}
	}
	return true
}
