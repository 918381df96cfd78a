package services

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"bramble.dev/mesh/internal/nstest"
	"bramble.dev/mesh/nft"
)

func ptr[T any](v T) *T { return &v }

func testConfig() Config {
	return Config{
		Node: "n1", Bridge: "br-abcdef", Tunnel: "vx-abcdef", Gateway: netip.MustParseAddr("10.42.1.1"),
		PodCIDR: netip.MustParsePrefix("10.42.1.0/24"), Cluster: netip.MustParsePrefix("10.42.0.0/16"), ServiceIPs: netip.MustParsePrefix("10.43.0.0/16"),
		DNS: netip.MustParseAddr("10.43.0.10"), Resolver: netip.MustParseAddrPort("10.42.1.1:53"), API: netip.MustParseAddrPort("10.42.1.1:6444"),
	}
}

func service(ns, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	s := &corev1.Service{}
	s.Namespace, s.Name = ns, name
	s.Spec.ClusterIP, s.Spec.ClusterIPs = ip, []string{ip}
	s.Spec.Ports = ports
	return s
}

func slice(ns, name string, port int32, proto corev1.Protocol, ips ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	s.Namespace, s.Name = ns, name+"-x"
	s.Labels = map[string]string{discoveryv1.LabelServiceName: name}
	s.Ports = []discoveryv1.EndpointPort{{Name: ptr(""), Port: ptr(port), Protocol: &proto}}
	for _, ip := range ips {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}})
	}
	return s
}

func TestLoadShort(t *testing.T) {
	ns := nstest.New(t, "n")
	ns.Must(func() error {
		conn, err := nft.Dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		p := Open(conn, Options{Table: "bramble-abcdef"})
		c := testConfig()
		for i := range 3 {
			name := fmt.Sprintf("s%d", i)
			c.Services = append(c.Services, service("default", name, fmt.Sprintf("10.43.1.%d", i), corev1.ServicePort{Port: 80, NodePort: int32(30000 + i)}))
			c.Endpoints = append(c.Endpoints, slice("default", name, 8080, "TCP", "10.42.1.5", "10.42.2.6"))
		}
		c.Services[1].Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		return p.Set(context.Background(), c)
	})
	t.Log(ns.Run("nft", "list", "ruleset"))
}
