package dns

import (
	"strings"

	"github.com/miekg/dns"
)

// maxUDP is the largest datagram that we take or send: what passes every link unfragmented.
const maxUDP = 1232

func (s *Server) serve(w dns.ResponseWriter, q *dns.Msg) {
	select {
	case s.queries <- struct{}{}:
		defer func() { <-s.queries }()
	default:
		return
	}
	// What went wrong with the client's socket is the client's to notice.
	_ = w.WriteMsg(s.Answer(q, w.LocalAddr().Network() == "tcp"))
}

// Answer is the reply to a query, cut to what the client takes.
func (s *Server) Answer(q *dns.Msg, tcp bool) *dns.Msg {
	m := s.answer(q)
	if o := q.IsEdns0(); o != nil {
		m.Extra = append(withoutOPT(m.Extra), edns(o))
	} else {
		m.Extra = withoutOPT(m.Extra)
	}
	m.Compress = true
	size := dns.MaxMsgSize
	if !tcp {
		size = dns.MinMsgSize
		if o := q.IsEdns0(); o != nil {
			size = min(max(int(o.UDPSize()), dns.MinMsgSize), maxUDP)
		}
	}
	m.Truncate(size)
	return m
}

func edns(q *dns.OPT) *dns.OPT {
	o := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	o.SetUDPSize(maxUDP)
	if q.Version() != 0 {
		o.SetExtendedRcode(dns.RcodeBadVers)
	}
	return o
}

func withoutOPT(rrs []dns.RR) []dns.RR {
	out := rrs[:0:0]
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			out = append(out, rr)
		}
	}
	return out
}

func reply(q *dns.Msg, rcode int) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q, rcode)
	m.RecursionAvailable = true
	return m
}

func (s *Server) answer(q *dns.Msg) *dns.Msg {
	switch {
	case q.Response || len(q.Question) != 1:
		return reply(q, dns.RcodeFormatError)
	case q.Opcode != dns.OpcodeQuery:
		return reply(q, dns.RcodeNotImplemented)
	case q.Question[0].Qclass != dns.ClassINET:
		return reply(q, dns.RcodeRefused)
	}
	if o := q.IsEdns0(); o != nil && o.Version() != 0 {
		return reply(q, dns.RcodeBadVers)
	}
	question := q.Question[0]
	name := strings.ToLower(question.Name)
	r, soa, ok := s.ask(name, question.Qtype)
	if !ok {
		return s.forward.exchange(q)
	}
	m := reply(q, r.rcode)
	m.Authoritative = true
	m.Answer, m.Extra = r.answer, r.extra
	named(m.Answer, question.Name)
	if r.alias != "" && question.Qtype != dns.TypeCNAME {
		s.follow(m, q, r.alias)
	} else if len(m.Answer) == 0 {
		m.Ns = []dns.RR{soa}
	}
	s.spread(m.Answer)
	return m
}

// named writes the name that was asked for as the client wrote it: some compare letter by letter.
func named(rrs []dns.RR, name string) {
	for _, rr := range rrs {
		if strings.EqualFold(rr.Header().Name, name) {
			rr.Header().Name = name
		}
	}
}

// spread puts addresses into another order each time, because most clients take the first.
func (s *Server) spread(rrs []dns.RR) {
	for len(rrs) > 0 && rrs[0].Header().Rrtype == dns.TypeCNAME {
		rrs = rrs[1:]
	}
	if len(rrs) > 1 && (rrs[0].Header().Rrtype == dns.TypeA || rrs[0].Header().Rrtype == dns.TypeAAAA) {
		s.shuffle(len(rrs), func(i, j int) { rrs[i], rrs[j] = rrs[j], rrs[i] })
	}
}

func (s *Server) ask(name string, qtype uint16) (result, dns.RR, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.zone.ask(name, qtype)
	return r, s.zone.soa(name), ok
}

// follow completes an answer with what the name at its end has, because the resolvers in C libraries
// do not ask again.
func (s *Server) follow(m, q *dns.Msg, to string) {
	qtype := q.Question[0].Qtype
	seen := map[string]bool{strings.ToLower(q.Question[0].Name): true}
	for len(seen) < 8 && !seen[strings.ToLower(to)] { // aliases of aliases, but no circle
		seen[strings.ToLower(to)] = true
		r, soa, ok := s.ask(strings.ToLower(to), qtype)
		if !ok {
			next := q.Copy()
			next.Question[0].Name = to
			f := s.forward.exchange(next)
			m.Answer = append(m.Answer, f.Answer...)
			m.Ns = f.Ns
			m.Rcode = f.Rcode
			m.Authoritative = false
			return
		}
		m.Answer = append(m.Answer, r.answer...)
		m.Rcode = r.rcode
		if r.alias == "" {
			if len(r.answer) == 0 {
				m.Ns = []dns.RR{soa}
			}
			return
		}
		to = r.alias
	}
	m.Rcode = dns.RcodeServerFailure
}
