package link

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"
)

// TestFronts: of several Services that want a port of an address one has it, whatever their order, and the others are told who.
func TestFronts(t *testing.T) {
	made := 0
	service := func(name string, change func(*corev1.Service)) *corev1.Service {
		made++
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, CreationTimestamp: metav1.NewTime(time.Unix(int64(made), 0))}}
		s.Spec.Ports = []corev1.ServicePort{{Port: 80}}
		change(s)
		return s
	}
	balancer := func(port int32, addresses ...string) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec.Type, s.Spec.Ports[0].Port = corev1.ServiceTypeLoadBalancer, port
			for _, a := range addresses {
				s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
			}
		}
	}
	asking := func(port int32, addresses ...string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.ExternalIPs, s.Spec.Ports[0].Port = addresses, port }
	}
	nodePort := func(n int32) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, n }
	}
	services := []*corev1.Service{
		service("z-first", asking(80, "203.0.113.5", "192.168.1.1")),
		service("a-second", asking(80, "203.0.113.5")),
		service("b-other-port", asking(81, "203.0.113.5")),
		service("takes-a-pool's", asking(80, "192.168.1.240")),
		service("web", balancer(80, "192.168.1.240")),
		service("takes-a-node-port", asking(30081, "192.168.1.1", "203.0.113.6")),
		service("on-nodes", balancer(30080, "192.168.1.1", "192.168.1.2")),
		service("late", nodePort(30080)),
		service("udp", func(s *corev1.Service) { nodePort(30080)(s); s.Spec.Ports[0].Protocol = corev1.ProtocolUDP }),
		service("free", nodePort(30081)),
		service("own", func(s *corev1.Service) { balancer(30082, "192.168.1.1")(s); s.Spec.Ports[0].NodePort = 30082 }),
		service("headless", func(s *corev1.Service) { asking(80, "203.0.113.7")(s); s.Spec.ClusterIP = corev1.ClusterIPNone }),
		service("not-behind-it", asking(80, "203.0.113.7")),
		service("takes-a-cluster-ip", asking(9999, "10.99.0.10")),
		service("of-another-range", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.99.0.10", []string{"10.99.0.10"} }),
	}
	nodes := []string{"192.168.1.1", "192.168.1.2"}
	want := map[string]string{
		"a-second":           "port tcp/80 of 203.0.113.5 is Service default/z-first's",
		"takes-a-pool's":     "port tcp/80 of 192.168.1.240 is Service default/web's",
		"takes-a-cluster-ip": "10.99.0.10 is the cluster IP of Service default/of-another-range",
		"takes-a-node-port":  "port tcp/30081 of 192.168.1.1 is Service default/free's",
		"late":               "port tcp/30080 of the nodes is Service default/on-nodes's already, which is of type LoadBalancer",
	}
	for _, order := range []string{"as made", "reversed"} {
		f := NewFronts(services, func(a string) bool { return slices.Contains(nodes, a) })
		for _, s := range services {
			text := ""
			for _, l := range f.Losses(s) {
				text += l.String()
			}
			if text != want[s.Name] {
				t.Errorf("%s: %s: got %q, want %q", order, s.Name, text, want[s.Name])
			}
		}
		if n := len(f.Losers()); n != len(want) {
			t.Errorf("%s: %d losers, want %d", order, n, len(want))
		}
		slices.Reverse(services)
	}
}
