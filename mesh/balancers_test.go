package mesh

import (
	"net/netip"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"bramble.dev/mesh/announce"
)

func TestAnnouncement(t *testing.T) {
	balancer := func(name string, change func(*corev1.Service), addresses ...string) *corev1.Service {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
		for _, a := range addresses {
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
		}
		if change != nil {
			change(s)
		}
		return s
	}
	class := func(name string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.LoadBalancerClass = &name }
	}
	local := func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
	slice := func(service, node string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.42.0.9"}, NodeName: &node}}}
	}
	c := Config{
		Node: "a", NodeIP: netip.MustParseAddr("10.0.0.1"), Cluster: "c", BalancerClass: "ours",
		Peers:          []Peer{{Node: "b", IP: netip.MustParseAddr("10.0.0.2")}, {Node: "far", Site: "x", IP: netip.MustParseAddr("10.0.0.3")}},
		EndpointSlices: []*discoveryv1.EndpointSlice{slice("here", "a"), slice("there", "b")},
		Services: []*corev1.Service{
			balancer("plain", nil, "10.0.0.10"),
			balancer("nodes", nil, "10.0.0.1", "10.0.0.2"),
			balancer("ours", class("ours"), "10.0.0.11"),
			balancer("foreign", class("metallb"), "10.0.0.12"),
			balancer("here", local, "10.0.0.13"),
			balancer("there", local, "10.0.0.14"),
			balancer("former", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }, "10.0.0.15"),
			balancer("name", func(s *corev1.Service) { s.Status.LoadBalancer.Ingress[0].IP = "" }, "x"),
		},
	}
	want := announce.Config{Self: "a", NodeIP: c.NodeIP, Cluster: "c", Peers: []announce.Peer{{Node: "b", IP: netip.MustParseAddr("10.0.0.2")}},
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("10.0.0.11"), netip.MustParseAddr("10.0.0.13")}}
	if got := c.announcement(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	c.Unannounced = true
	if got := c.announcement(); len(got.Addresses) > 0 {
		t.Errorf("a node that is left out announces %v", got.Addresses)
	}
}
