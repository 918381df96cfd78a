package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"bramble.dev/mesh/catalog"
)

// ttl of cluster names, in seconds: CoreDNS' own. Endpoints come and go.
const ttl = 5

// zone answers for the cluster's domain and for the reverse names of its addresses.
type zone struct {
	domain     string // "cluster.local."
	addresses  []netip.Prefix
	self       netip.Addr // the name server's
	catalog    *catalog.Catalog
	namespaces map[string]int
	known      map[catalog.Key][]netip.Addr // what byIP holds of each Service
	byIP       map[netip.Addr][]catalog.Key
}

func newZone() *zone {
	return &zone{catalog: catalog.New(), namespaces: map[string]int{}, known: map[catalog.Key][]netip.Addr{}, byIP: map[netip.Addr][]catalog.Key{}}
}

func (z *zone) update(c Config) {
	z.domain = dns.CanonicalName(c.Domain)
	z.addresses, z.self = c.Addresses, c.Self
	for _, k := range z.catalog.Update(c.Services, c.Endpoints) {
		if old, ok := z.known[k]; ok {
			for _, a := range old {
				rest := slices.DeleteFunc(z.byIP[a], func(o catalog.Key) bool { return o == k })
				if z.byIP[a] = rest; len(rest) == 0 {
					delete(z.byIP, a)
				}
			}
			delete(z.known, k)
			if z.namespaces[k.Namespace]--; z.namespaces[k.Namespace] == 0 {
				delete(z.namespaces, k.Namespace)
			}
		}
		if e, ok := z.catalog.Get(k); ok {
			list := addressesOf(e)
			z.known[k] = list
			z.namespaces[k.Namespace]++
			for _, a := range list {
				z.byIP[a] = append(z.byIP[a], k)
			}
		}
	}
}

// addressesOf lists the addresses whose reverse names lead to a Service.
func addressesOf(e catalog.Entry) []netip.Addr {
	out := clusterIPs(e.Service)
	for _, ep := range endpointsOf(e) {
		out = append(out, ep.addr)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// result is what the zone has for a question.
type result struct {
	rcode  int
	answer []dns.RR
	extra  []dns.RR
	alias  string // the answer ends in this name, which is to be looked up in turn
}

func nothing() result { return result{rcode: dns.RcodeSuccess} } // the name exists, the type does not
func unknown() result { return result{rcode: dns.RcodeNameError} }

// ask answers a question, if it is about a name of the zone. The name is in lower case.
func (z *zone) ask(name string, qtype uint16) (result, bool) {
	if z.domain == "" {
		return result{}, false
	}
	if a, ok := reverse(name); ok {
		return z.pointer(name, a, qtype)
	}
	if name == z.domain {
		return z.apex(qtype), true
	}
	rest, ok := strings.CutSuffix(name, "."+z.domain)
	if !ok {
		return result{}, false
	}
	labels := strings.Split(rest, ".")
	slices.Reverse(labels)
	switch labels[0] {
	case "svc":
		return z.service(name, labels[1:], qtype), true
	case "pod":
		return z.pod(name, labels[1:], qtype), true
	case "dns-version":
		if len(labels) == 1 {
			return z.only(dns.TypeTXT, qtype, &dns.TXT{Hdr: header(name, dns.TypeTXT), Txt: []string{"1.1.0"}}), true
		}
	case "ns":
		if len(labels) == 1 {
			return z.address(name, qtype, z.self), true
		}
	}
	return unknown(), true
}

func header(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}

func (z *zone) only(have, want uint16, rr dns.RR) result {
	if have != want {
		return nothing()
	}
	return result{answer: []dns.RR{rr}}
}

func (z *zone) apex(qtype uint16) result {
	switch qtype {
	case dns.TypeSOA:
		return result{answer: []dns.RR{z.soa(z.domain)}}
	case dns.TypeNS:
		return result{answer: []dns.RR{&dns.NS{Hdr: header(z.domain, dns.TypeNS), Ns: "ns." + z.domain}}}
	}
	return nothing()
}

// soa says how long to believe that a name or type does not exist.
func (z *zone) soa(name string) dns.RR {
	apex := z.domain
	for _, r := range []string{"in-addr.arpa.", "ip6.arpa."} {
		if strings.HasSuffix(name, "."+r) {
			apex = r
		}
	}
	return &dns.SOA{Hdr: header(apex, dns.TypeSOA), Ns: "ns." + z.domain, Mbox: "hostmaster." + z.domain, Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl}
}

// address is the answer with what addresses of the asked family a name has.
func (z *zone) address(name string, qtype uint16, addrs ...netip.Addr) result {
	var r result
	for _, a := range addrs {
		if rr := addressRecord(name, a); rr != nil && rr.Header().Rrtype == qtype {
			r.answer = append(r.answer, rr)
		}
	}
	return r
}

func addressRecord(name string, a netip.Addr) dns.RR {
	switch {
	case a.Is4():
		return &dns.A{Hdr: header(name, dns.TypeA), A: a.AsSlice()}
	case a.Is6():
		return &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: a.AsSlice()}
	}
	return nil
}

// pod answers for <address with dashes>.<namespace>.pod.<domain>.
func (z *zone) pod(name string, labels []string, qtype uint16) result {
	switch len(labels) {
	case 0:
		return nothing()
	case 1:
		return z.namespace(labels[0])
	case 2:
		if a, ok := undash(labels[1]); ok {
			return z.address(name, qtype, a)
		}
	}
	return unknown()
}

func (z *zone) namespace(ns string) result {
	if z.namespaces[ns] > 0 {
		return nothing()
	}
	return unknown()
}

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
	switch rest := labels[2:]; {
	case len(rest) == 0 && qtype == dns.TypeSRV:
		return z.srv(e, name, base, "", "")
	case len(rest) == 0:
		if headless(e.Service) {
			return z.address(name, qtype, endpointAddresses(e, "")...)
		}
		return z.address(name, qtype, clusterIPs(e.Service)...)
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
		r.answer = append(r.answer, &dns.SRV{Hdr: header(name, dns.TypeSRV), Weight: 100, Port: n, Target: target})
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
			for _, a := range clusterIPs(e.Service) {
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

// share gives equal targets equal weights that add up to about 100, as CoreDNS does.
func share(answer []dns.RR) {
	for _, rr := range answer {
		rr.(*dns.SRV).Weight = uint16(max(1, 100/len(answer)))
	}
}

// pointer answers a reverse question about the cluster's addresses; others are for the resolvers.
func (z *zone) pointer(name string, a netip.Addr, qtype uint16) (result, bool) {
	keys := z.byIP[a]
	ours := slices.ContainsFunc(z.addresses, func(p netip.Prefix) bool { return p.Contains(a) })
	if len(keys) == 0 {
		return unknown(), ours
	}
	var r result
	for _, k := range keys {
		e, _ := z.catalog.Get(k)
		base := k.Name + "." + k.Namespace + ".svc." + z.domain
		if slices.Contains(clusterIPs(e.Service), a) {
			r.answer = append(r.answer, &dns.PTR{Hdr: header(name, dns.TypePTR), Ptr: base})
			continue
		}
		for _, ep := range endpointsOf(e) {
			if ep.addr == a {
				r.answer = append(r.answer, &dns.PTR{Hdr: header(name, dns.TypePTR), Ptr: ep.label + "." + base})
				break
			}
		}
	}
	if qtype != dns.TypePTR {
		return nothing(), true
	}
	return r, true
}

func headless(s *corev1.Service) bool { return s.Spec.ClusterIP == corev1.ClusterIPNone }

func clusterIPs(s *corev1.Service) []netip.Addr {
	var out []netip.Addr
	list := s.Spec.ClusterIPs
	if len(list) == 0 {
		list = []string{s.Spec.ClusterIP}
	}
	for _, v := range list {
		if a, err := netip.ParseAddr(v); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}

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

func dash(a netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(a.String())
}

// undash reads 10-42-0-5 or the like for IPv6, where -- stands for ::.
func undash(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(strings.ReplaceAll(s, "-", ".")); err == nil && a.Is4() {
		return a, true
	}
	a, err := netip.ParseAddr(strings.ReplaceAll(s, "-", ":"))
	return a, err == nil && a.Is6() && a.Zone() == ""
}

// reverse reads the address out of a name below in-addr.arpa or ip6.arpa.
func reverse(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		labels := strings.Split(rest, ".")
		if len(labels) != 4 {
			return netip.Addr{}, false
		}
		slices.Reverse(labels)
		a, err := netip.ParseAddr(strings.Join(labels, "."))
		return a, err == nil
	}
	if rest, ok := strings.CutSuffix(name, ".ip6.arpa."); ok {
		labels := strings.Split(rest, ".")
		if len(labels) != 32 {
			return netip.Addr{}, false
		}
		slices.Reverse(labels)
		var b strings.Builder
		for i, l := range labels {
			if len(l) != 1 {
				return netip.Addr{}, false
			}
			if i > 0 && i%4 == 0 {
				b.WriteByte(':')
			}
			b.WriteString(l)
		}
		a, err := netip.ParseAddr(b.String())
		return a, err == nil
	}
	return netip.Addr{}, false
}
