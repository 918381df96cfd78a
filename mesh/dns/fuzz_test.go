package dns

import (
	"testing"

	"github.com/miekg/dns"
)

// FuzzAnswer: whatever comes, there is no panic, and a reply that fits, packs and belongs to the query.
func FuzzAnswer(f *testing.F) {
	for _, q := range []*dns.Msg{
		query("web.default.svc.cluster.local", dns.TypeA), query("_http._tcp.db.default.svc.cluster.local", dns.TypeSRV),
		query("6.1.42.10.in-addr.arpa", dns.TypePTR), query("outside.default.svc.cluster.local", dns.TypeAAAA), query("10-1-2-3.x.pod.cluster.local", dns.TypeA),
		query("0.9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa", dns.TypePTR), query("circle.default.svc.cluster.local", dns.TypeANY), query(".", dns.TypeNS),
	} {
		q.SetEdns0(1400, true)
		b, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, true)
		f.Add(b[:len(b)/2], false)
	}
	s := Open(Options{})
	s.zone.update(testConfig())
	f.Fuzz(func(t *testing.T, b []byte, tcp bool) {
		q := new(dns.Msg)
		if q.Unpack(b) != nil {
			return
		}
		m := s.Answer(q, tcp)
		if m.Id != q.Id || !m.Response {
			t.Fatalf("reply %v to %v", m.MsgHdr, q.MsgHdr)
		}
		out, err := m.Pack()
		if err != nil {
			t.Fatalf("the reply does not pack: %v\n%v", err, m)
		}
		if !tcp && len(out) > maxUDP {
			t.Fatalf("a datagram of %d bytes", len(out))
		}
		if err := new(dns.Msg).Unpack(out); err != nil {
			t.Fatalf("the reply does not unpack: %v", err)
		}
	})
}
