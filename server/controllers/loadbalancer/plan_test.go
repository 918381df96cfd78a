package loadbalancer

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"

	"bramble.dev/link"
	"bramble.dev/server/controllers/entrance"
)

func TestPools(t *testing.T) {
	for _, c := range []struct {
		in   string
		want string // the pool, or part of the error
	}{
		{"192.168.1.240-192.168.1.250", "192.168.1.240-192.168.1.250"},
		{"192.168.1.240/28", "192.168.1.241-192.168.1.254"},
		{"10.0.0.9", "10.0.0.9-10.0.0.9"},
		{"10.0.0.8/31", "10.0.0.8-10.0.0.9"},
		{"10.0.0.1-10.0.0.3,10.0.0.3-10.0.0.9", "overlaps"},
		{"10.0.0.9-10.0.0.3", "want a range"},
		{"fd00::/64", "want a range"},
		{"nonsense", "want a range"},
		{"", "want a range"},
	} {
		pool, err := ParsePool(strings.Split(c.in, ","))
		got := pool.String()
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%q: got %s, want %s", c.in, got, c.want)
		}
	}
	pool, _ := ParsePool([]string{"10.0.0.1-10.0.0.3"})
	for text, want := range map[string]bool{"10.0.0.0/30": true, "10.0.0.4/30": false, "10.0.0.2/32": true, "0.0.0.0/0": true, "fd00::/112": false} {
		if got := pool.Overlaps(netip.MustParsePrefix(text)); got != want {
			t.Errorf("overlaps %s: %v", text, got)
		}
	}
}

func FuzzPool(f *testing.F) {
	f.Add("192.168.1.240-192.168.1.250")
	f.Add("0.0.0.0/0")
	f.Add("255.255.255.255")
	f.Fuzz(func(t *testing.T, text string) {
		pool, err := ParsePool([]string{text})
		if err != nil {
			return
		}
		if a, ok := pool.next(nil); !ok || !pool.contains(a) {
			t.Errorf("%q gives %v", text, a)
		}
	})
}

func service(name string, numbers ...int32) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1000, 0))}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
	for _, n := range numbers {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Protocol: corev1.ProtocolTCP, Port: n})
	}
	return s
}

func nodePort(s *corev1.Service, n int32) *corev1.Service {
	s.Spec.Ports[0].NodePort = n
	return s
}

func at(s *corev1.Service, told int32) *corev1.Service {
	for i := range s.Status.LoadBalancer.Ingress {
		s.Status.LoadBalancer.Ingress[i].Ports = []corev1.PortStatus{{Port: told, Protocol: corev1.ProtocolTCP}}
	}
	return s
}

func asking(s *corev1.Service, address string) *corev1.Service {
	s.Spec.ExternalIPs = []string{address}
	return s
}

func has(s *corev1.Service, addresses ...string) *corev1.Service {
	for _, a := range addresses {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
	}
	return s
}

func node(name, ip string, change func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}, Status: corev1.NodeStatus{
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}
	if change != nil {
		change(n)
	}
	return n
}

func TestDecide(t *testing.T) {
	pool, err := ParsePool([]string{"10.0.0.5-10.0.0.6"})
	if err != nil {
		t.Fatal(err)
	}
	wish := func(s *corev1.Service, a string) *corev1.Service { s.Spec.LoadBalancerIP = a; return s }
	local := service("web", 80)
	local.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	two := []*corev1.Node{node("a", "192.168.1.1", nil), node("b", "192.168.1.2", nil)}
	busy := node("b", "192.168.1.2", func(n *corev1.Node) {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: link.PortsFree, Status: corev1.ConditionFalse,
			Message: link.PortsMessage([]link.PortInUse{{Protocol: corev1.ProtocolTCP, Port: 80, By: "nginx"}})})
	})
	wantedByIngress := node("b", "192.168.1.2", func(n *corev1.Node) {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: link.PortsFree, Status: corev1.ConditionFalse,
			Message: link.PortsMessage([]link.PortInUse{{Protocol: corev1.ProtocolTCP, Port: 80, By: link.OfService("default", "web")}})})
	})
	for _, c := range []struct {
		name    string
		o       observed
		want    string
		refusal string // part of it
	}{
		{"the first address", observed{service: service("web", 80), pool: pool}, "10.0.0.5", ""},
		{"the next", observed{service: service("web", 80), pool: pool, services: []*corev1.Service{has(service("other"), "10.0.0.5")}}, "10.0.0.6", ""},
		{"what it has", observed{service: has(service("web", 80), "10.0.0.6"), pool: pool}, "10.0.0.6", ""},
		{"what another asks for", observed{service: service("web", 80), pool: pool, services: []*corev1.Service{asking(service("other", 80), "10.0.0.5")}}, "10.0.0.6", ""},
		{"what it has and another asks for", observed{service: has(service("web", 80), "10.0.0.5"), pool: pool, services: []*corev1.Service{asking(service("other", 80), "10.0.0.5")}}, "10.0.0.5", ""},
		{"of another pool", observed{service: has(service("web", 80), "10.9.0.6"), pool: pool}, "10.0.0.5", ""},
		{"a wish", observed{service: wish(service("web", 80), "10.0.0.6"), pool: pool}, "10.0.0.6", ""},
		{"a wish for a taken one", observed{service: wish(service("web", 80), "10.0.0.6"), pool: pool, services: []*corev1.Service{has(service("other"), "10.0.0.6")}}, "", "10.0.0.6 is in use by default/other"},
		{"a wish outside", observed{service: wish(service("web", 80), "10.0.0.7"), pool: pool}, "", "is not in the pool"},
		{"a wish that is none", observed{service: wish(service("web", 80), "x"), pool: pool}, "", "is not an IPv4 address"},
		{"a node's address is not given", observed{service: service("web", 80), pool: pool, nodes: []*corev1.Node{node("a", "10.0.0.5", nil)}}, "10.0.0.6", ""},
		{"none is left", observed{service: service("web", 80), pool: pool, services: []*corev1.Service{has(service("x"), "10.0.0.6"), has(service("y"), "10.0.0.5")}}, "", "no address is free in the pool 10.0.0.5-10.0.0.6"},
		{"none is left, one is asked for", observed{service: service("web", 80), pool: pool, services: []*corev1.Service{has(service("x"), "10.0.0.6"), asking(service("y"), "10.0.0.5")}}, "", "kept free for externalIPs: 10.0.0.5 by default/y"},

		{"all nodes", observed{service: service("web", 80), nodes: two}, "192.168.1.1 192.168.1.2", ""},
		{"excluded", observed{service: service("web", 80), nodes: []*corev1.Node{two[0], node("b", "192.168.1.2", func(n *corev1.Node) { n.Labels[corev1.LabelNodeExcludeBalancers] = "" })}}, "192.168.1.1", ""},
		{"away", observed{service: service("web", 80), nodes: []*corev1.Node{two[0], node("b", "192.168.1.2", func(n *corev1.Node) { n.Status.Conditions = nil })}}, "192.168.1.1", ""},
		{"local endpoints", observed{service: local, nodes: two, local: map[string]bool{"b": true}}, "192.168.1.2", "a: no endpoint is ready here"},
		{"a program has the port", observed{service: service("web", 80), nodes: []*corev1.Node{two[0], busy}}, "192.168.1.1", "b: port tcp/80 is in use by nginx"},
		{"an Ingress wants the port that it has", observed{service: has(service("web", 80), "192.168.1.1"), nodes: []*corev1.Node{two[0], wantedByIngress}, ingress: "default/site"}, "192.168.1.1 192.168.1.2", ""},
		{"a program has another port", observed{service: service("web", 81), nodes: []*corev1.Node{busy}}, "192.168.1.2", ""},
		{"a pod has the port", observed{service: service("web", 80), nodes: two, hostPort: map[string]map[entrance.Port]string{"a": {{Protocol: corev1.ProtocolTCP, Number: 80}: "default/x"}}}, "192.168.1.2", "a: port tcp/80 is the host port of pod default/x"},
		{"an older Service", observed{service: service("web", 80), nodes: two, services: []*corev1.Service{service("older", 80)}}, "", "is Service default/older's"},
		{"a Service that has it", observed{service: service("web", 80), nodes: two, services: []*corev1.Service{has(service("younger", 80), "192.168.1.1")}}, "", "is Service default/younger's"},
		{"a port that it wants since, of a younger one", observed{service: at(has(service("web", 80), "192.168.1.1"), 8080), nodes: two, services: []*corev1.Service{at(has(service("younger", 80), "192.168.1.1"), 80)}}, "", "is Service default/younger's"},
		{"its own, which an older one wants since", observed{service: at(has(service("web", 80), "192.168.1.1"), 80), nodes: two, services: []*corev1.Service{at(has(service("older", 80), "192.168.1.1"), 8080)}}, "192.168.1.1 192.168.1.2", ""},
		{"a port of Ingresses that it wants since", observed{service: at(has(service("web", 443), "192.168.1.1"), 8080), nodes: two, ingress: "default/site"}, "", "serves Ingresses (default/site)"},
		{"another port", observed{service: service("web", 80), nodes: two, services: []*corev1.Service{has(service("older", 81), "192.168.1.1")}}, "192.168.1.1 192.168.1.2", ""},
		{"it is another's node port", observed{service: service("web", 30080), nodes: two, services: []*corev1.Service{nodePort(service("other", 80), 30080)}}, "", "is a node port of Service default/other"},
		{"it is its own node port", observed{service: nodePort(service("web", 30080), 30080), nodes: two, services: []*corev1.Service{nodePort(service("web", 30080), 30080)}}, "192.168.1.1 192.168.1.2", ""},
		{"Ingresses have it", observed{service: service("web", 443), nodes: two, ingress: "default/site"}, "", "serves Ingresses (default/site)"},
		{"it was there before Ingresses", observed{service: has(service("web", 443), "192.168.1.1"), nodes: two, ingress: "default/site"}, "192.168.1.1 192.168.1.2", ""},
	} {
		p := decide(c.o)
		var got []string
		for _, a := range p.addresses {
			got = append(got, a.String())
		}
		if s := strings.Join(got, " "); s != c.want || !strings.Contains(p.refusal, c.refusal) || (c.refusal == "") != (p.refusal == "") {
			t.Errorf("%s: got %s (%q), want %s (%q)", c.name, s, p.refusal, c.want, c.refusal)
		}
	}
}
