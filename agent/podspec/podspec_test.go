package podspec

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestExpand(t *testing.T) {
	known := func(name string) (string, bool) {
		v, ok := map[string]string{"A": "1", "B": "two", "EMPTY": ""}[name]
		return v, ok
	}
	for in, want := range map[string]string{
		"":                 "",
		"plain":            "plain",
		"$(A)":             "1",
		"x$(A)y$(B)z":      "x1ytwoz",
		"$(EMPTY)":         "",
		"$(UNKNOWN)":       "$(UNKNOWN)",
		"$$(A)":            "$(A)",
		"$$$(A)":           "$1",
		"$$":               "$",
		"$":                "$",
		"$A":               "$A",
		"$(A":              "$(A",
		"$(A$(B)":          "$(A$(B)",
		"$()":              "$()",
		"${A}":             "${A}",
		"--flag=$(A)$(B)$": "--flag=1two$",
	} {
		if got := Expand(in, known); got != want {
			t.Errorf("Expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("$($(A)$$")
	f.Fuzz(func(t *testing.T, in string) {
		out := Expand(in, func(string) (string, bool) { return "", false })
		if !strings.Contains(in, "$$") && out != in {
			t.Fatalf("with nothing known %q became %q", in, out)
		}
	})
}

func yes() *bool { b := true; return &b }
func no() *bool  { b := false; return &b }

func service(namespace, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
}

func sources() Sources {
	return Sources{
		ConfigMap: func(ns, name string) (*corev1.ConfigMap, bool) {
			return &corev1.ConfigMap{Data: map[string]string{"b": "2", "a": "1"}}, ns == "shop" && name == "cm"
		},
		Secret: func(ns, name string) (*corev1.Secret, bool) {
			return &corev1.Secret{Data: map[string][]byte{"password": []byte("s3cret")}}, ns == "shop" && name == "sec"
		},
		Services: []*corev1.Service{
			service("default", "kubernetes", "10.43.0.1", corev1.ServicePort{Name: "https", Port: 443}),
			service("shop", "data-base", "10.43.0.9", corev1.ServicePort{Port: 5432, Protocol: corev1.ProtocolTCP}),
			service("shop", "headless", "None", corev1.ServicePort{Port: 1}),
			service("other", "web", "10.43.0.8", corev1.ServicePort{Port: 80}),
		},
		Addresses:   Addresses{Pod: []string{"10.42.0.5"}, Host: []string{"192.168.1.2"}},
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("1Gi")},
	}
}

func testPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", UID: "u-1", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"Note": "hi"}},
		Spec:       corev1.PodSpec{NodeName: "pi", ServiceAccountName: "robot", EnableServiceLinks: no()},
	}
}

func field(path string) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}
}

func TestEnv(t *testing.T) {
	c := corev1.Container{
		Name: "c",
		EnvFrom: []corev1.EnvFromSource{
			{Prefix: "CM_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "gone"}, Optional: yes()}},
		},
		Env: []corev1.EnvVar{
			{Name: "PLAIN", Value: "x"},
			{Name: "REF", Value: "$(CM_a)-$(LATER)-$(KUBERNETES_SERVICE_PORT)"},
			{Name: "LATER", Value: "y"},
			{Name: "CM_b", Value: "replaced"},
			{Name: "EMPTY"},
			{Name: "NAME", ValueFrom: field("metadata.name")},
			{Name: "LABEL", ValueFrom: field("metadata.labels['app']")},
			{Name: "ANNOTATION", ValueFrom: field("metadata.annotations['Note']")},
			{Name: "NODE", ValueFrom: field("spec.nodeName")},
			{Name: "SA", ValueFrom: field("spec.serviceAccountName")},
			{Name: "HOST", ValueFrom: field("status.hostIP")},
			{Name: "IP", ValueFrom: field("status.podIP")},
			{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}},
			{Name: "CPU_M", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "requests.cpu", Divisor: resource.MustParse("1m")}}},
			{Name: "MEM", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}},
			{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "sec"}, Key: "password"}}},
			{Name: "SKIPPED", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Key: "none", Optional: yes()}}},
		},
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")}},
	}
	got, err := Env(testPod(), &c, sources())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"CM_a=1", "CM_b=replaced", "PLAIN=x", "REF=1-$(LATER)-443", "LATER=y", "EMPTY=", "NAME=web-1", "LABEL=web", "ANNOTATION=hi",
		"NODE=pi", "SA=robot", "HOST=192.168.1.2", "IP=10.42.0.5", "CPU=4", "CPU_M=250", "MEM=1024", "PASSWORD=s3cret",
		"KUBERNETES_SERVICE_HOST=10.43.0.1", "KUBERNETES_SERVICE_PORT=443", "KUBERNETES_SERVICE_PORT_HTTPS=443",
		"KUBERNETES_PORT=tcp://10.43.0.1:443", "KUBERNETES_PORT_443_TCP=tcp://10.43.0.1:443", "KUBERNETES_PORT_443_TCP_PROTO=tcp",
		"KUBERNETES_PORT_443_TCP_PORT=443", "KUBERNETES_PORT_443_TCP_ADDR=10.43.0.1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestServiceLinks(t *testing.T) {
	pod := testPod()
	pod.Spec.EnableServiceLinks = yes()
	got, err := Env(pod, &corev1.Container{}, sources())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"DATA_BASE_SERVICE_HOST=10.43.0.9", "DATA_BASE_PORT_5432_TCP_ADDR=10.43.0.9", "KUBERNETES_SERVICE_HOST=10.43.0.1"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing in %q", want, got)
		}
	}
	if slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "WEB_") || strings.HasPrefix(s, "HEADLESS_") }) {
		t.Errorf("services of others, or headless ones: %q", got)
	}
}

func TestEnvErrors(t *testing.T) {
	ref := func(name, key string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key}}
	}
	for _, c := range []struct {
		name string
		in   corev1.Container
		want string
	}{
		{"no configmap", corev1.Container{Env: []corev1.EnvVar{{Name: "A", ValueFrom: ref("gone", "k")}}}, `configmap "gone" not found`},
		{"no key", corev1.Container{Env: []corev1.EnvVar{{Name: "A", ValueFrom: ref("cm", "k")}}}, `couldn't find key k in ConfigMap shop/cm`},
		{"no secret", corev1.Container{EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "gone"}}}}}, `secret "gone" not found`},
		{"no field", corev1.Container{Env: []corev1.EnvVar{{Name: "A", ValueFrom: field("spec.containers")}}}, `field label not supported: spec.containers`},
		{"no resource", corev1.Container{Env: []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.gpu"}}}}}, `unsupported container resource : limits.gpu`},
	} {
		_, err := Env(testPod(), &c.in, sources())
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

func TestFileKeyStaysInItsVolume(t *testing.T) {
	dir := t.TempDir()
	volume := filepath.Join(dir, "volume")
	os.Mkdir(volume, 0o755)
	os.WriteFile(filepath.Join(dir, "outside"), []byte("KEY=stolen\n"), 0o644)
	os.WriteFile(filepath.Join(volume, "inside"), []byte("OTHER=1\nKEY=\"value\"\n"), 0o644)
	os.Symlink("../outside", filepath.Join(volume, "link"))
	read := func(path string) (string, error) {
		c := corev1.Container{Env: []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{VolumeName: "v", Path: path, Key: "KEY"}}}}}
		src := sources()
		src.Volumes, src.Services = map[string]string{"v": volume}, nil
		env, err := Env(testPod(), &c, src)
		return strings.Join(env, " "), err
	}
	if got, err := read("inside"); err != nil || got != "A=value" {
		t.Errorf("inside: %q %v", got, err)
	}
	for _, path := range []string{"link", "../outside"} {
		if got, err := read(path); err == nil {
			t.Errorf("%s: led out of the volume: %q", path, got)
		}
	}
}

func TestHosts(t *testing.T) {
	pod := testPod()
	pod.Spec.HostAliases = []corev1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"a", "b"}}}
	got := Hosts(pod, []string{"10.42.0.5"}, "web-1", "sub.shop.svc.cluster.local", "")
	want := "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n10.42.0.5\tweb-1.sub.shop.svc.cluster.local\tweb-1\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	pod.Spec.HostNetwork, pod.Spec.HostAliases = true, nil
	if got := Hosts(pod, nil, "x", "", "127.0.0.1 node\n"); got != "# Kubernetes-managed hosts file (host network).\n127.0.0.1 node\n" {
		t.Errorf("host network: %q", got)
	}
}

func TestPodDNS(t *testing.T) {
	node := ParseResolvConf("# made by dhcp\nnameserver 9.9.9.9\nsearch lan.\noptions timeout:1 rotate\n")
	two := "2"
	for _, c := range []struct {
		name   string
		policy corev1.DNSPolicy
		host   bool
		config *corev1.PodDNSConfig
		want   string
	}{
		{"cluster first", corev1.DNSClusterFirst, false, nil, "search shop.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.43.0.10\noptions ndots:5\n"},
		{"cluster first on the host's network", corev1.DNSClusterFirst, true, nil, "search lan\nnameserver 9.9.9.9\noptions timeout:1 rotate\n"},
		{"cluster first with host network", corev1.DNSClusterFirstWithHostNet, true, nil, "search shop.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.43.0.10\noptions ndots:5\n"},
		{"default", corev1.DNSDefault, false, nil, "search lan\nnameserver 9.9.9.9\noptions timeout:1 rotate\n"},
		{"none", corev1.DNSNone, false, &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{"my.domain"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}, {Name: "edns0"}}}, "search my.domain\nnameserver 1.1.1.1\noptions ndots:2 edns0\n"},
		{"merged", corev1.DNSClusterFirst, false, &corev1.PodDNSConfig{Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}}}, "search shop.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.43.0.10\noptions ndots:2\n"},
	} {
		pod := testPod()
		pod.Spec.DNSPolicy, pod.Spec.HostNetwork, pod.Spec.DNSConfig = c.policy, c.host, c.config
		dns, warnings := PodDNS(pod, node, []string{"10.43.0.10"}, "cluster.local")
		if got := dns.ResolvConf(); got != c.want || len(warnings) != 0 {
			t.Errorf("%s: got\n%s%q\nwant\n%s", c.name, got, warnings, c.want)
		}
	}
}

func TestShouldRestart(t *testing.T) {
	always, onFailure, never := corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyOnFailure, corev1.ContainerRestartPolicyNever
	rule := []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestart, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
	for _, c := range []struct {
		pod  corev1.RestartPolicy
		own  *corev1.ContainerRestartPolicy
		rule []corev1.ContainerRestartRule
		code int32
		want bool
	}{
		{corev1.RestartPolicyAlways, nil, nil, 0, true},
		{corev1.RestartPolicyOnFailure, nil, nil, 0, false},
		{corev1.RestartPolicyOnFailure, nil, nil, 1, true},
		{corev1.RestartPolicyNever, nil, nil, 1, false},
		{corev1.RestartPolicyNever, &always, nil, 0, true},
		{corev1.RestartPolicyAlways, &onFailure, nil, 0, false},
		{corev1.RestartPolicyAlways, &never, nil, 1, false},
		{corev1.RestartPolicyAlways, &never, rule, 42, true},
		{corev1.RestartPolicyAlways, &never, rule, 41, false},
	} {
		spec := &corev1.PodSpec{RestartPolicy: c.pod}
		got := ShouldRestart(spec, &corev1.Container{RestartPolicy: c.own, RestartPolicyRules: c.rule}, c.code)
		if got != c.want {
			t.Errorf("%v %v %v code %d: %v", c.pod, c.own, c.rule, c.code, got)
		}
	}
}

func TestHostnames(t *testing.T) {
	pod := testPod()
	pod.Name = strings.Repeat("a", 62) + "-bcd"
	if host, _, _ := Hostname(pod, "cluster.local"); host != strings.Repeat("a", 62) {
		t.Errorf("long name: %q", host)
	}
	pod.Spec.Hostname, pod.Spec.Subdomain, pod.Spec.SetHostnameAsFQDN = "h", "s", yes()
	if name, err := UTSName(pod, "cluster.local"); err != nil || name != "h.s.shop.svc.cluster.local" {
		t.Errorf("qualified: %q %v", name, err)
	}
}

func TestImageRef(t *testing.T) {
	for in, want := range map[string]string{
		"nginx": "nginx:latest", "nginx:1": "nginx:1", "localhost:5000/a/b": "localhost:5000/a/b:latest", "a@sha256:00": "a@sha256:00",
	} {
		if got := ImageRef(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// TestQOS: an empty spec.resources says nothing of the pod as a whole; its containers do.
func TestQOS(t *testing.T) {
	amount := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	full, some := corev1.ResourceRequirements{Requests: amount, Limits: amount}, corev1.ResourceRequirements{Requests: amount}
	for _, c := range []struct {
		name      string
		container corev1.ResourceRequirements
		pod       *corev1.ResourceRequirements
		want      corev1.PodQOSClass
	}{
		{"nothing", corev1.ResourceRequirements{}, nil, corev1.PodQOSBestEffort},
		{"requests", some, nil, corev1.PodQOSBurstable},
		{"limits", full, nil, corev1.PodQOSGuaranteed},
		{"the pod's own", some, &full, corev1.PodQOSGuaranteed},
		{"the pod's own, empty", full, &corev1.ResourceRequirements{}, corev1.PodQOSGuaranteed},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Resources: c.pod, Containers: []corev1.Container{{Name: "app", Resources: c.container}}}}
		if got := QOS(pod); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
