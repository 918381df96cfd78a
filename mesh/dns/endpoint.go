package dns

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"bramble.dev/mesh/catalog"
)

func headless(s *corev1.Service) bool { return s.Spec.ClusterIP == corev1.ClusterIPNone }

// endpoint is one address and port of a Service that names may lead to.
type endpoint struct {
	addr     netip.Addr
	label    string
	portName string
	proto    corev1.Protocol
	port     uint16
}

// endpointsOf lists a Service's ready endpoints, once for each port, and once without when it has none.
func endpointsOf(e catalog.Entry) []endpoint {
	var out []endpoint
	for _, s := range e.Slices {
		if s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for _, ep := range s.Endpoints {
			if len(ep.Addresses) == 0 || ep.Conditions.Ready != nil && !*ep.Conditions.Ready && !e.Service.Spec.PublishNotReadyAddresses {
				continue
			}
			a, err := netip.ParseAddr(ep.Addresses[0])
			if err != nil {
				continue
			}
			one := endpoint{addr: a.Unmap(), label: dash(a)}
			if ep.Hostname != nil && *ep.Hostname != "" {
				one.label = strings.ToLower(*ep.Hostname)
			}
			if len(s.Ports) == 0 {
				out = append(out, one)
			}
			for _, p := range s.Ports {
				one.portName, one.proto, one.port = "", corev1.ProtocolTCP, 0
				if p.Name != nil {
					one.portName = *p.Name
				}
				if p.Protocol != nil {
					one.proto = *p.Protocol
				}
				if p.Port != nil {
					one.port = uint16(*p.Port)
				}
				out = append(out, one)
			}
		}
	}
	return out
}

// endpointAddresses are the distinct addresses of a Service's endpoints, or of those with a label.
func endpointAddresses(e catalog.Entry, label string) []netip.Addr {
	var out []netip.Addr
	seen := map[netip.Addr]bool{}
	for _, ep := range endpointsOf(e) {
		if (label == "" || ep.label == label) && !seen[ep.addr] {
			seen[ep.addr] = true
			out = append(out, ep.addr)
		}
	}
	return out
}
