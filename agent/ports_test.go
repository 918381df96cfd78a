package agent

import (
	"net"
	"net/netip"
	"reflect"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"
)

// TestExternalAddresses: a Service cannot have itself put in the place of a pod, of another Service, of another board, or of what
// a program of this board listens at.
func TestExternalAddresses(t *testing.T) {
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	busy := int32(l.Addr().(*net.TCPAddr).Port)
	at := addresses{
		self: netip.MustParseAddr("192.168.1.2"), nodes: map[netip.Addr]bool{netip.MustParseAddr("192.168.1.2"): true, netip.MustParseAddr("192.168.1.3"): true},
		inside: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16")},
	}
	all := []string{"192.168.1.2", "192.168.1.3", "10.42.0.5", "10.43.0.1", "203.0.113.5"}
	asking := func(port int32) *corev1.Service {
		return &corev1.Service{Spec: corev1.ServiceSpec{ExternalIPs: all, Ports: []corev1.ServicePort{{Port: port}}}}
	}
	plain := &corev1.Service{Spec: corev1.ServiceSpec{ExternalIPs: []string{"203.0.113.5", "192.168.1.2"}, Ports: []corev1.ServicePort{{Port: 2}}}}
	p := &ports{proc: "/proc"}
	in := []*corev1.Service{asking(1), asking(busy), plain}
	got, _, err := p.serve(in, at)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]string{{"192.168.1.2", "203.0.113.5"}, {"203.0.113.5"}, {"203.0.113.5", "192.168.1.2"}} {
		if !reflect.DeepEqual(got[i].Spec.ExternalIPs, want) {
			t.Errorf("Service %d has %v, want %v", i, got[i].Spec.ExternalIPs, want)
		}
	}
	again, _, _ := p.serve(in, at)
	for i := range got {
		if got[i] != again[i] {
			t.Errorf("Service %d is another object, with the same content", i)
		}
	}
	at.own = map[string]bool{"203.0.113.5": true} // of the board's other link
	if got, _, _ = p.serve(in, at); len(got[1].Spec.ExternalIPs) != 0 || !reflect.DeepEqual(got[0].Spec.ExternalIPs, []string{"192.168.1.2", "203.0.113.5"}) {
		t.Errorf("with two links: %v, %v", got[0].Spec.ExternalIPs, got[1].Spec.ExternalIPs)
	}
	at.own = nil
	l.Close()
	if got, _, _ = p.serve(in, at); !reflect.DeepEqual(got[1].Spec.ExternalIPs, []string{"192.168.1.2", "203.0.113.5"}) {
		t.Errorf("the port is free: %v", got[1].Spec.ExternalIPs)
	}
}

// TestAddressesOfOtherServices: what a Service was given by the API no other takes by asking for the address itself, nor what an
// older one asked for.
func TestAddressesOfOtherServices(t *testing.T) {
	self := netip.MustParseAddr("192.168.1.2")
	at := addresses{self: self, nodes: map[netip.Addr]bool{self: true}}
	given := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30080}}}}
	given.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.168.1.240"}}
	asking := func(ports ...int32) *corev1.Service {
		s := &corev1.Service{Spec: corev1.ServiceSpec{ExternalIPs: []string{"192.168.1.240", "192.168.1.2"}}}
		for _, n := range ports {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: n})
		}
		return s
	}
	own := given.DeepCopy()
	own.Spec.Ports[0].NodePort = 30081
	own.Status.LoadBalancer.Ingress[0].IP = "192.168.1.241"
	own.Spec.ExternalIPs = []string{"192.168.1.241"}
	older, younger := asking(80), asking(443, 80)
	younger.CreationTimestamp = metav1.NewTime(time.Unix(1, 0))
	udp := asking(80)
	udp.Spec.Ports[0].Protocol = corev1.ProtocolUDP
	p := &ports{proc: "/proc"}
	got, _, err := p.serve([]*corev1.Service{older, asking(30080), younger, asking(81), udp, given, own}, at)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][]string{{"192.168.1.2"}, {"192.168.1.240"}, {}, {"192.168.1.240", "192.168.1.2"}, {"192.168.1.240", "192.168.1.2"}, nil, {"192.168.1.241"}} {
		if !reflect.DeepEqual(got[i].Spec.ExternalIPs, want) {
			t.Errorf("Service %d has %v, want %v", i, got[i].Spec.ExternalIPs, want)
		}
	}
}
