package services

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

const table = "bramble-abcdef"

func testConfig() Config {
	return Config{
		Node: "n1", Zone: "z1", Bridge: "br-abcdef", Tunnel: "vx-abcdef", VNI: 7, TunnelPort: 8472, Gateway: netip.MustParseAddr("10.42.1.1"),
		PodCIDR: netip.MustParsePrefix("10.42.1.0/24"), Cluster: netip.MustParsePrefix("10.42.0.0/16"), ServiceIPs: netip.MustParsePrefix("10.43.0.0/16"),
		DNS: netip.MustParseAddr("10.43.0.10"), Resolver: netip.MustParseAddrPort("10.42.1.1:53"), API: netip.MustParseAddrPort("10.42.1.1:6444"),
	}
}

func ptr[T any](v T) *T { return &v }

func service(name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	s := &corev1.Service{}
	s.Namespace, s.Name = "default", name
	s.Spec.ClusterIP, s.Spec.ClusterIPs = ip, []string{ip}
	s.Spec.Ports = ports
	return s
}

// ep is an endpoint, made by where and in what state it is.
func ep(ip, node string, state ...string) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{ip}, NodeName: &node}
	e.Conditions = discoveryv1.EndpointConditions{Ready: ptr(true), Serving: ptr(true), Terminating: ptr(false)}
	for _, s := range state {
		switch s {
		case "unready":
			e.Conditions.Ready, e.Conditions.Serving = ptr(false), ptr(false)
		case "terminating":
			e.Conditions.Ready, e.Conditions.Terminating = ptr(false), ptr(true)
		case "nil":
			e.Conditions = discoveryv1.EndpointConditions{}
		case "for-n1":
			e.Hints = &discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: "n1"}}, ForZones: []discoveryv1.ForZone{{Name: "z1"}}}
		case "for-n2":
			e.Hints = &discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: "n2"}}, ForZones: []discoveryv1.ForZone{{Name: "z1"}}}
		case "for-z1":
			e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "z1"}}}
		case "for-z2":
			e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "z2"}}}
		}
	}
	return e
}

func slice(name string, ports []discoveryv1.EndpointPort, eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Ports: ports, Endpoints: eps}
	s.Namespace, s.Name = "default", name+"-x"
	s.Labels = map[string]string{discoveryv1.LabelServiceName: name}
	return s
}

func to(name string, port int32, proto corev1.Protocol) []discoveryv1.EndpointPort {
	return []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &proto}}
}

// everything is a configuration with each feature in it.
func everything() Config {
	c := testConfig()
	tcp := corev1.ProtocolTCP
	plain := service("plain", "10.43.0.20", corev1.ServicePort{Port: 80})
	one := service("one", "10.43.0.21", corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, NodePort: 30053}, corev1.ServicePort{Name: "sctp", Port: 3868, Protocol: corev1.ProtocolSCTP})
	sticky := service("sticky", "10.43.0.22", corev1.ServicePort{Port: 80, NodePort: 30022})
	sticky.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	sticky.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(60))}}
	outer := service("outer", "10.43.0.23", corev1.ServicePort{Port: 443, NodePort: 30443})
	outer.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	outer.Spec.ExternalIPs = []string{"198.51.100.9"}
	outer.Spec.Type = corev1.ServiceTypeLoadBalancer
	outer.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.7"}, {IP: "203.0.113.8", IPMode: ptr(corev1.LoadBalancerIPModeProxy)}, {Hostname: "lb.example"}}
	outer.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/25", " 198.18.0.0/15", "nonsense"}
	inner := service("inner", "10.43.0.24", corev1.ServicePort{Port: 80})
	inner.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
	empty := service("empty", "10.43.0.25", corev1.ServicePort{Port: 80, NodePort: 30025})
	away := service("away", "10.43.0.26", corev1.ServicePort{Port: 80, NodePort: 30026})
	away.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	away.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
	nowhere := service("nowhere", "10.43.0.30", corev1.ServicePort{Port: 80, NodePort: 30030})
	nowhere.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	nowhere.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
	hostnet := service("hostnet", "10.43.0.27", corev1.ServicePort{Port: 80, NodePort: 30027})
	headless := service("headless", corev1.ClusterIPNone, corev1.ServicePort{Port: 80})
	name := service("name", "", corev1.ServicePort{Port: 80})
	name.Spec.Type = corev1.ServiceTypeExternalName
	other := service("other", "10.43.0.28", corev1.ServicePort{Port: 80})
	other.Labels = map[string]string{labelProxyName: "somebody"}
	stickyLocal := service("sticky-local", "10.43.0.29", corev1.ServicePort{Port: 80, NodePort: 30029})
	stickyLocal.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	stickyLocal.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	c.Services = []*corev1.Service{plain, one, sticky, outer, inner, empty, away, hostnet, headless, name, other, stickyLocal, nowhere}
	both := []discoveryv1.Endpoint{ep("10.42.1.5", "n1"), ep("10.42.2.6", "n2")}
	http := to("", 8080, tcp)
	c.Endpoints = []*discoveryv1.EndpointSlice{
		slice("plain", http, ep("10.42.1.5", "n1"), ep("10.42.2.6", "n2"), ep("10.42.3.7", "n3"), ep("10.42.3.8", "n3", "unready"), ep("10.42.3.9", "n3", "terminating")),
		slice("one", []discoveryv1.EndpointPort{to("dns", 5353, corev1.ProtocolUDP)[0], to("sctp", 3868, corev1.ProtocolSCTP)[0]}, ep("10.42.1.5", "n1")),
		slice("sticky", http, both...), slice("outer", http, both...), slice("inner", http, both...),
		slice("empty", http), slice("away", http, ep("10.42.2.6", "n2")),
		slice("hostnet", http, ep("192.168.1.2", "n2")), slice("headless", http, both...), slice("other", http, both...), slice("sticky-local", http, both...),
	}
	c.Peers = []netip.Addr{netip.MustParseAddr("192.168.1.2"), netip.MustParseAddr("192.168.1.3")}
	c.Pods = []Pod{
		{IP: netip.MustParseAddr("10.42.1.5"), Ports: []HostPort{{HostPort: 8081, Port: 80}, {HostPort: 8081, Port: 81, Protocol: corev1.ProtocolUDP}}},
		{IP: netip.MustParseAddr("10.42.1.6"), Ports: []HostPort{{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 8082, Port: 80, Protocol: corev1.ProtocolTCP}}},
	}
	return c
}
