package dns

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

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
	if e.Service.Spec.Type == corev1.ServiceTypeExternalName {
		return nil // its endpoints are of a time when it was something else, and nobody keeps them up to date
	}
	out := catalog.ClusterIPs(e.Service)
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
		_, searched := z.searched(name)
		return unknown(), searched
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

// searched gives the search domain of a name that is one of a Service with something behind the cluster's domain. Clients make such of the search list that
// pods have of their board: a Service's full name has fewer dots than ndots asks for. Outside nobody has it, and to ask would cost
// the client that waits for a link that is down several times its patience before it tries the name itself.
func (z *zone) searched(name string) (domain string, ok bool) {
	_, domain, ok = strings.Cut(name, ".svc."+z.domain)
	return domain, ok && !strings.HasSuffix(name, "."+z.domain)
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
	if domain, ok := z.searched(name); ok {
		apex = domain
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
		if slices.Contains(catalog.ClusterIPs(e.Service), a) {
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
