package dns

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

	"bramble.dev/mesh/catalog"
)

// service answers for names below svc.<domain>; labels are from the right.
func (z *zone) service(name string, labels []string, qtype uint16) result {
	switch len(labels) {
	case 0:
		return nothing()
	case 1:
		return z.namespace(labels[0])
	}
	e, ok := z.catalog.Get(catalog.Key{Namespace: labels[0], Name: labels[1]})
	if !ok {
		return unknown()
	}
	base := labels[1] + "." + labels[0] + ".svc." + z.domain
	if e.Service.Spec.Type == corev1.ServiceTypeExternalName {
		return external(e, name, labels[2:])
	}
	if headless(e.Service) && len(endpointsOf(e)) == 0 {
		return unknown() // the specification has it so: clients wait for a name, not for its records
	}
	switch rest := labels[2:]; {
	case len(rest) == 0 && qtype == dns.TypeSRV:
		return z.srv(e, name, base, "", "")
	case len(rest) == 0:
		if headless(e.Service) {
			return z.address(name, qtype, endpointAddresses(e, "")...)
		}
		return z.address(name, qtype, catalog.ClusterIPs(e.Service)...)
	case len(rest) == 1 && strings.HasPrefix(rest[0], "_"): // _tcp above the ports: no data of its own
		return existing(len(z.srv(e, name, base, "", rest[0][1:]).answer) > 0)
	case len(rest) == 1:
		return z.endpoint(e, name, rest[0], qtype)
	case len(rest) == 2 && strings.HasPrefix(rest[0], "_") && strings.HasPrefix(rest[1], "_"):
		r := z.srv(e, name, base, rest[1][1:], rest[0][1:])
		if qtype != dns.TypeSRV {
			return existing(len(r.answer) > 0)
		}
		return r
	}
	return unknown()
}

func existing(yes bool) result {
	if yes {
		return nothing()
	}
	return unknown()
}

func external(e catalog.Entry, name string, rest []string) result {
	to := e.Service.Spec.ExternalName
	if len(rest) > 0 {
		return unknown()
	}
	if to == "" {
		return nothing()
	}
	if _, ok := dns.IsDomainName(to); !ok {
		return nothing()
	}
	to = dns.Fqdn(to)
	return result{answer: []dns.RR{&dns.CNAME{Hdr: header(name, dns.TypeCNAME), Target: to}}, alias: to}
}

// endpoint answers for <hostname or dashed address>.<service>....
func (z *zone) endpoint(e catalog.Entry, name, label string, qtype uint16) result {
	addrs := endpointAddresses(e, label)
	if len(addrs) == 0 {
		return unknown()
	}
	return z.address(name, qtype, addrs...)
}

// srv lists a Service's ports, all of them or those of a name and protocol. Of a headless Service each
// endpoint is a target.
func (z *zone) srv(e catalog.Entry, name, base, port, proto string) result {
	r := result{rcode: dns.RcodeSuccess}
	match := func(n string, p corev1.Protocol) bool {
		if p == "" {
			p = corev1.ProtocolTCP
		}
		return (port == "" || n == port) && (proto == "" || strings.EqualFold(string(p), proto))
	}
	seen := map[string]bool{}
	add := func(target string, n uint16, a netip.Addr) {
		if seen[target+" "+strconv.Itoa(int(n))] {
			return
		}
		seen[target+" "+strconv.Itoa(int(n))] = true
		r.answer = append(r.answer, &dns.SRV{Hdr: header(name, dns.TypeSRV), Port: n, Target: target})
		if rr := addressRecord(target, a); rr != nil && !seen[target] {
			seen[target] = true
			r.extra = append(r.extra, rr)
		}
	}
	if headless(e.Service) {
		for _, ep := range endpointsOf(e) {
			if match(ep.portName, ep.proto) && ep.port != 0 {
				add(ep.label+"."+base, ep.port, ep.addr)
			}
		}
	} else {
		for _, p := range e.Service.Spec.Ports {
			for _, a := range catalog.ClusterIPs(e.Service) {
				if match(p.Name, p.Protocol) {
					add(base, uint16(p.Port), a)
				}
			}
		}
	}
	if len(r.answer) == 0 && port != "" {
		r.rcode = dns.RcodeNameError
	}
	share(r.answer)
	return r
}

// share gives all targets the same weight; together they have about 100, as CoreDNS does.
func share(answer []dns.RR) {
	for _, rr := range answer {
		rr.(*dns.SRV).Weight = uint16(max(1, 100/len(answer)))
	}
}
