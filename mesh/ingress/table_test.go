package ingress

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pathTo is a path of an Ingress: kind "e" is Exact, "p" Prefix, "i" whatever the implementation makes of it.
func pathTo(kind, p, service string) networkingv1.HTTPIngressPath {
	t := map[string]networkingv1.PathType{"e": networkingv1.PathTypeExact, "p": networkingv1.PathTypePrefix, "i": networkingv1.PathTypeImplementationSpecific}[kind]
	return networkingv1.HTTPIngressPath{Path: p, PathType: &t, Backend: backend(service)}
}

func backend(service string) networkingv1.IngressBackend {
	return networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: service, Port: networkingv1.ServiceBackendPort{Number: 80}}}
}

func rule(host string, paths ...networkingv1.HTTPIngressPath) networkingv1.IngressRule {
	return networkingv1.IngressRule{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: paths}}}
}

func ingressOf(age int, rules ...networkingv1.IngressRule) *networkingv1.Ingress {
	return &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "in", CreationTimestamp: metav1.NewTime(time.Unix(int64(1000-age), 0))}, Spec: networkingv1.IngressSpec{Rules: rules}}
}

// services have one endpoint each, whose address is their number.
func services(names ...string) (out Config) {
	for i, name := range names {
		port, number := int32(8080), "10.42.0."+string(rune('1'+i))
		out.Services = append(out.Services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "web", Port: 80}}}})
		web := "web"
		out.EndpointSlices = append(out.EndpointSlices, &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			Ports: []discoveryv1.EndpointPort{{Name: &web, Port: &port}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{number}}}})
	}
	out.Secret = func(string, string) (*corev1.Secret, bool) { return nil, false }
	return out
}

func TestRoutes(t *testing.T) {
	c := services("a", "b", "c", "d", "e", "f", "g", "rest")
	c.Ingresses = []*networkingv1.Ingress{
		ingressOf(2, rule("a.example", pathTo("p", "/", "a"), pathTo("p", "/foo", "b"), pathTo("e", "/foo", "c"), pathTo("p", "/foo/bar/", "d")),
			rule("*.example", pathTo("p", "/", "e")), rule("", pathTo("i", "/any", "f")), rule("strict.example", pathTo("e", "/only", "g"))),
		ingressOf(1, rule("A.example", pathTo("p", "/foo", "g"))), // younger: it gets nothing
	}
	c.Ingresses[0].Spec.DefaultBackend = &networkingv1.IngressBackend{Service: backend("rest").Service}
	table, problems := Compile(c, 443)
	if len(problems) != 1 || !strings.Contains(problems[0].Text, "is an older Ingress's") {
		t.Errorf("problems %v", problems)
	}
	for _, x := range []struct{ host, path, want string }{
		{"a.example", "/", "a"}, {"a.example", "/foo", "c"}, {"a.example", "/foo/", "b"}, {"a.example", "/foo/x", "b"}, {"a.example", "/foobar", "a"},
		{"a.example", "/foo/bar", "d"}, {"a.example", "/foo/bar/x", "d"}, {"a.example", "/foo/barx", "b"}, {"A.Example:80", "/foo", "c"}, {"a.example.", "/foo", "c"},
		{"a.example", "/foo/../x", "a"}, {"a.example", "/x/../foo/./bar/", "d"},
		{"b.example", "/x", "e"}, {"b.c.example", "/any", "f"}, {"b.c.example", "/x", "rest"}, {"example", "/any/x", "f"}, {"", "/any", "f"},
		{"strict.example", "/only", "g"}, {"strict.example", "/only/", "rest"}, {"strict.example", "/any", "rest"},
	} {
		r := table.route(normalHost(x.host), x.path)
		got := "nothing"
		if r != nil {
			to := table.Backends[r.Backend][0]
			got = c.Services[to[len("10.42.0.")]-'1'].Name
		}
		if got != x.want {
			t.Errorf("%s%s is %s's, want %s's", x.host, x.path, got, x.want)
		}
	}
	c.Ingresses[0].Spec.DefaultBackend = nil
	table, _ = Compile(c, 443)
	if r := table.route("b.c.example", "/x"); r != nil {
		t.Errorf("what no rule is for goes to %v", r)
	}
}

// TestOneNumberTwoProtocols: a port of UDP is no way to a web server, whatever its number.
func TestOneNumberTwoProtocols(t *testing.T) {
	c := services("a")
	c.Services[0].Spec.Ports = []corev1.ServicePort{{Name: "quic", Port: 80, Protocol: corev1.ProtocolUDP}, {Name: "web", Port: 80, Protocol: corev1.ProtocolTCP}}
	c.Ingresses = []*networkingv1.Ingress{ingressOf(1, rule("x.example", pathTo("p", "/", "a")))}
	table, problems := Compile(c, 443)
	if r := table.route("x.example", "/"); len(problems) > 0 || r == nil || r.Backend < 0 || len(table.Backends[r.Backend]) != 1 {
		t.Errorf("%+v leads to %v; %v", r, table.Backends, problems)
	}
}

func TestProblems(t *testing.T) {
	c := services("a", "alias")
	c.Services[1].Spec.Type = corev1.ServiceTypeExternalName
	in := ingressOf(1, rule("x.example", pathTo("p", "/", "a"), pathTo("p", "/gone", "gone"), pathTo("p", "/alias", "alias")))
	in.Spec.Rules[0].HTTP.Paths[0].Backend.Service.Port = networkingv1.ServiceBackendPort{Name: "other"}
	in.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"x.example"}, SecretName: "none"}}
	c.Ingresses = []*networkingv1.Ingress{in}
	table, problems := Compile(c, 443)
	var got []string
	for _, p := range problems {
		got = append(got, p.Text)
	}
	want := `secret "none" for TLS does not exist|service "a" has no port other|service "gone" does not exist|service "alias" is of type ExternalName, which is not supported`
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("got %s", s)
	}
	if r := table.route("x.example", "/"); r == nil || r.Backend != -1 || !r.Secure {
		t.Errorf("what cannot be served is %+v", r)
	}
	in.Annotations = map[string]string{redirectAnnotation: "false"}
	table, _ = Compile(c, 443)
	if r := table.route("x.example", "/"); r.Secure {
		t.Error("an Ingress that asks for no redirect has one")
	}
}

func FuzzRoute(f *testing.F) {
	c := services("a", "b", "c")
	c.Ingresses = []*networkingv1.Ingress{ingressOf(1, rule("a.example", pathTo("p", "/", "a"), pathTo("e", "/admin", "b")), rule("*.example", pathTo("p", "/x", "c")))}
	table, _ := Compile(c, 443)
	f.Add("a.example", "/admin/..")
	f.Add("[::1]:80", "//")
	f.Add("..", "")
	f.Fuzz(func(t *testing.T, host, p string) {
		h := normalHost(host)
		r := table.route(h, p)
		if clean := cleanPath(p); r != nil && !r.matches(clean) || clean == "" || clean[0] != '/' || strings.Contains(clean, "/../") {
			t.Errorf("%q %q leads to %v by %q", host, p, r, clean)
		}
	})
}
