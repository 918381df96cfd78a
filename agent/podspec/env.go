package podspec

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Sources are what environment variables are taken from.
type Sources struct {
	ConfigMap   func(namespace, name string) (*corev1.ConfigMap, bool)
	Secret      func(namespace, name string) (*corev1.Secret, bool)
	Services    []*corev1.Service
	Addresses   Addresses
	Allocatable corev1.ResourceList
	Volumes     map[string]string // host paths, for fileKeyRef
}

// environment keeps the order in which names were first set, so that two starts of a container
// see the same order.
type environment struct {
	names  []string
	values map[string]string
}

func (e *environment) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.names = append(e.names, name)
	}
	e.values[name] = value
}

// Env resolves a container's environment to KEY=value: envFrom first, then env, which replaces
// what it names again, then the services of the namespace where nothing else has their name.
func Env(pod *corev1.Pod, c *corev1.Container, src Sources) ([]string, error) {
	env := &environment{values: map[string]string{}}
	services := serviceEnv(pod, src.Services)
	for _, from := range c.EnvFrom {
		if err := env.from(pod.Namespace, from, src); err != nil {
			return nil, err
		}
	}
	lookup := func(name string) (string, bool) {
		if v, ok := env.values[name]; ok {
			return v, true
		}
		v, ok := services.values[name]
		return v, ok
	}
	for _, v := range c.Env {
		value, skip, err := variable(pod, c, v, src, lookup)
		if err != nil {
			return nil, err
		}
		if !skip {
			env.set(v.Name, value)
		}
	}
	out := make([]string, 0, len(env.names)+len(services.names))
	for _, name := range env.names {
		out = append(out, name+"="+env.values[name])
	}
	for _, name := range services.names {
		if _, taken := env.values[name]; !taken {
			out = append(out, name+"="+services.values[name])
		}
	}
	return out, nil
}

func (e *environment) from(namespace string, from corev1.EnvFromSource, src Sources) error {
	switch {
	case from.ConfigMapRef != nil:
		cm, ok := src.ConfigMap(namespace, from.ConfigMapRef.Name)
		if !ok {
			return missing(from.ConfigMapRef.Optional, "configmap", from.ConfigMapRef.Name)
		}
		for _, k := range slices.Sorted(maps.Keys(cm.Data)) {
			e.set(from.Prefix+k, cm.Data[k])
		}
	case from.SecretRef != nil:
		s, ok := src.Secret(namespace, from.SecretRef.Name)
		if !ok {
			return missing(from.SecretRef.Optional, "secret", from.SecretRef.Name)
		}
		for _, k := range slices.Sorted(maps.Keys(s.Data)) {
			e.set(from.Prefix+k, string(s.Data[k]))
		}
	}
	return nil
}

func missing(optional *bool, kind, name string) error {
	if optional != nil && *optional {
		return nil
	}
	return fmt.Errorf("%s %q not found", kind, name)
}

func variable(pod *corev1.Pod, c *corev1.Container, v corev1.EnvVar, src Sources, lookup func(string) (string, bool)) (value string, skip bool, err error) {
	if v.Value != "" || v.ValueFrom == nil {
		return Expand(v.Value, lookup), false, nil
	}
	switch from := v.ValueFrom; {
	case from.FieldRef != nil:
		value, err = Field(pod, from.FieldRef, src.Addresses)
	case from.ResourceFieldRef != nil:
		value, err = Resource(pod, c, from.ResourceFieldRef, src.Allocatable)
	case from.ConfigMapKeyRef != nil:
		return configMapKey(pod.Namespace, from.ConfigMapKeyRef, src)
	case from.SecretKeyRef != nil:
		return secretKey(pod.Namespace, from.SecretKeyRef, src)
	case from.FileKeyRef != nil:
		return fileKey(from.FileKeyRef, src.Volumes)
	}
	return value, false, err
}

func configMapKey(namespace string, ref *corev1.ConfigMapKeySelector, src Sources) (string, bool, error) {
	cm, ok := src.ConfigMap(namespace, ref.Name)
	if !ok {
		err := missing(ref.Optional, "configmap", ref.Name)
		return "", err == nil, err
	}
	value, ok := cm.Data[ref.Key]
	if !ok && ref.Optional != nil && *ref.Optional {
		return "", true, nil
	}
	if !ok {
		return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, namespace, ref.Name)
	}
	return value, false, nil
}

func secretKey(namespace string, ref *corev1.SecretKeySelector, src Sources) (string, bool, error) {
	s, ok := src.Secret(namespace, ref.Name)
	if !ok {
		err := missing(ref.Optional, "secret", ref.Name)
		return "", err == nil, err
	}
	value, ok := s.Data[ref.Key]
	if !ok && ref.Optional != nil && *ref.Optional {
		return "", true, nil
	}
	if !ok {
		return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, namespace, ref.Name)
	}
	return string(value), false, nil
}

// fileKey reads one variable of a file that an init container left in a volume. The path comes
// from the pod and the file from its containers: neither may lead out of the volume.
func fileKey(ref *corev1.FileKeySelector, volumes map[string]string) (string, bool, error) {
	dir, ok := volumes[ref.VolumeName]
	if !ok {
		return "", false, fmt.Errorf("cannot find the volume %q referenced by FileKeyRef", ref.VolumeName)
	}
	optional := ref.Optional != nil && *ref.Optional
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", false, fmt.Errorf("failed to get host path for volume %q: %w", ref.VolumeName, err)
	}
	defer root.Close()
	f, err := root.Open(ref.Path)
	if err != nil {
		if optional && errors.Is(err, os.ErrNotExist) {
			return "", true, nil
		}
		return "", false, errors.New("couldn't parse env file")
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, ok := strings.Cut(strings.TrimSpace(lines.Text()), "=")
		if ok && strings.TrimSpace(name) == ref.Key {
			return strings.Trim(strings.TrimSpace(value), `"'`), false, nil
		}
	}
	if optional {
		return "", true, nil
	}
	return "", false, fmt.Errorf("environment variable key %q not found in file %q", ref.Key, filepath.Join(dir, ref.Path))
}

// serviceEnv is what a pod is told of services: always of default/kubernetes, and of those of its
// namespace unless it does not want to.
func serviceEnv(pod *corev1.Pod, services []*corev1.Service) *environment {
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	var chosen []*corev1.Service
	own := map[string]bool{}
	for _, s := range services {
		if links && s.Namespace == pod.Namespace && hasClusterIP(s) {
			own[s.Name] = true
			chosen = append(chosen, s)
		}
	}
	for _, s := range services {
		if s.Namespace == corev1.NamespaceDefault && s.Name == "kubernetes" && !own[s.Name] && hasClusterIP(s) {
			chosen = append(chosen, s)
		}
	}
	slices.SortFunc(chosen, func(a, b *corev1.Service) int { return strings.Compare(a.Name, b.Name) })
	env := &environment{values: map[string]string{}}
	for _, s := range chosen {
		serviceVariables(env, s)
	}
	return env
}

func hasClusterIP(s *corev1.Service) bool {
	return s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone && len(s.Spec.Ports) > 0
}

func variableName(s string) string {
	return strings.ToUpper(strings.ReplaceAll(s, "-", "_"))
}

func serviceVariables(env *environment, s *corev1.Service) {
	name, ip := variableName(s.Name), s.Spec.ClusterIP
	env.set(name+"_SERVICE_HOST", ip)
	env.set(name+"_SERVICE_PORT", strconv.Itoa(int(s.Spec.Ports[0].Port)))
	for _, p := range s.Spec.Ports {
		if p.Name != "" {
			env.set(name+"_SERVICE_PORT_"+variableName(p.Name), strconv.Itoa(int(p.Port)))
		}
	}
	// The form of Docker's links, which images still read.
	for i, p := range s.Spec.Ports {
		protocol := strings.ToLower(string(p.Protocol))
		if protocol == "" {
			protocol = "tcp"
		}
		url := protocol + "://" + net.JoinHostPort(ip, strconv.Itoa(int(p.Port)))
		if i == 0 {
			env.set(name+"_PORT", url)
		}
		prefix := fmt.Sprintf("%s_PORT_%d_%s", name, p.Port, strings.ToUpper(protocol))
		env.set(prefix, url)
		env.set(prefix+"_PROTO", protocol)
		env.set(prefix+"_PORT", strconv.Itoa(int(p.Port)))
		env.set(prefix+"_ADDR", ip)
	}
}
