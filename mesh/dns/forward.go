package dns

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// patience with one resolver. Clients' own is five seconds, and there may be three resolvers.
const patience = 1500 * time.Millisecond

// tries is how often resolvers are asked in all before a client that waits is told that there is no answer.
const tries = 3

// After so many questions in a row that no resolver answered, clients wait for no longer than this: whoever walks a search list asks
// several names, one after the other, before the one that may be known.
const (
	silence = 2
	hasty   = 500 * time.Millisecond
)

// forwarder asks other resolvers, and remembers what they said.
type forwarder struct {
	enter func(func() error) error
	slots chan struct{} // of questions
	queue chan struct{} // of clients
	cache *cache

	mu         sync.Mutex
	upstream   []string
	first      int // the resolver that answered last
	unanswered int // questions in a row
	flights    map[key]*flight
}

// flight is a question on its way; others who ask the same wait for it.
type flight struct {
	done   chan struct{}
	answer *dns.Msg
}

func newForwarder(enter func(func() error) error) *forwarder {
	return &forwarder{enter: enter, slots: make(chan struct{}, maxForwarded), queue: make(chan struct{}, maxWaiting), cache: newCache(), flights: map[key]*flight{}}
}

// set takes over resolvers, without those that would lead back here.
func (f *forwarder) set(list []string, self netip.AddrPort, vip netip.Addr) {
	var out []string
	for _, u := range list {
		ap, err := netip.ParseAddrPort(u)
		if err != nil {
			a, err := netip.ParseAddr(strings.Trim(u, "[]"))
			if err != nil {
				continue
			}
			ap = netip.AddrPortFrom(a, 53)
		}
		if ap == self || ap.Addr() == vip || ap.Addr() == self.Addr() && ap.Port() == 53 {
			continue
		}
		out = append(out, ap.String())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if strings.Join(out, " ") != strings.Join(f.upstream, " ") {
		f.upstream, f.first, f.unanswered = out, 0, 0
	}
}

// exchange answers a query from the cache or the resolvers; from the cache even when it is stale, if
// nobody else knows.
func (f *forwarder) exchange(q *dns.Msg) *dns.Msg {
	k := keyOf(q)
	old, fresh := f.cache.get(k, time.Now())
	if fresh {
		return adopt(q, old)
	}
	if a := f.find(q, k, old == nil); a != nil && (old == nil || !failure(a)) {
		return adopt(q, a)
	}
	if old != nil {
		return adopt(q, old)
	}
	return reply(q, dns.RcodeServerFailure)
}

// find asks, or waits for what somebody asks already. Nil: nobody answered, or too many wait. The question stays on its way when the
// client waits no longer: its answer, as soon as the link is back, is for those who ask next.
func (f *forwarder) find(q *dns.Msg, k key, insist bool) *dns.Msg {
	select {
	case f.queue <- struct{}{}:
		defer func() { <-f.queue }()
	default:
		return nil
	}
	f.mu.Lock()
	fl, waiting := f.flights[k]
	if !waiting {
		if len(f.flights) == maxWaiting { // of clients that left
			f.mu.Unlock()
			return nil
		}
		fl = &flight{done: make(chan struct{})}
		f.flights[k] = fl
		go f.fly(fl, q.Copy(), k, insist)
	}
	silent := f.unanswered >= silence
	f.mu.Unlock()
	var enough <-chan time.Time
	if silent {
		enough = time.After(hasty)
	}
	select {
	case <-fl.done:
		return fl.answer
	case <-enough:
		return nil
	}
}

func (f *forwarder) fly(fl *flight, q *dns.Msg, k key, insist bool) {
	fl.answer = f.ask(q, insist)
	if fl.answer != nil {
		f.cache.put(k, fl.answer, time.Now())
	}
	f.mu.Lock()
	delete(f.flights, k)
	f.mu.Unlock()
	close(fl.done)
}

// failure says whether a resolver could not, or would not, find the answer. A router whose own link is down answers so:
// it is there, and knows nothing (RFC 8767, section 4: a failure does not make what is known worthless).
func failure(a *dns.Msg) bool {
	return a.Rcode == dns.RcodeServerFailure || a.Rcode == dns.RcodeRefused || a.Rcode == dns.RcodeNotImplemented
}

// adopt makes a copy of an answer the reply to a query.
func adopt(q, a *dns.Msg) *dns.Msg {
	m := a.Copy()
	m.Id = q.Id
	m.Response, m.RecursionDesired, m.RecursionAvailable, m.Authoritative = true, q.RecursionDesired, true, false
	m.Opcode = q.Opcode
	m.Question = q.Question
	m.CheckingDisabled = q.CheckingDisabled
	named(m.Answer, q.Question[0].Name)
	return m
}

// ask goes through the resolvers, beginning with the one that answered last. Nil: nobody answered. Whoever insists has no older answer
// to give: those that say nothing are asked again for as long as a client waits, because on a bad link a datagram is lost, or the
// resolver itself has to wait for its answer.
func (f *forwarder) ask(q *dns.Msg, insist bool) *dns.Msg {
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return nil
	}
	f.mu.Lock()
	upstream, first := f.upstream, f.first
	f.mu.Unlock()
	out := question(q)
	attempts := len(upstream)
	if insist && attempts > 0 {
		attempts = max(attempts, tries)
	}
	var failed *dns.Msg
	gone := map[string]bool{} // they are not there: to ask again is of no use
	for i := range attempts {
		n := (first + i) % len(upstream)
		if gone[upstream[n]] {
			continue
		}
		a, err := f.askOne(out, upstream[n])
		if err != nil {
			var network net.Error
			gone[upstream[n]] = !errors.As(err, &network) || !network.Timeout()
			continue
		}
		gone[upstream[n]] = true
		if failure(a) {
			failed = a
			continue
		}
		f.mu.Lock()
		f.unanswered = 0
		if len(f.upstream) == len(upstream) {
			f.first = n
		}
		f.mu.Unlock()
		return a
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if failed != nil {
		f.unanswered = 0
	} else {
		f.unanswered++
	}
	return failed
}

// question is the query that we send for a client's: nothing but the question, with our own limits.
func question(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.Id = dns.Id()
	m.RecursionDesired = true
	m.CheckingDisabled = q.CheckingDisabled
	m.Question = q.Question
	o := q.IsEdns0()
	m.SetEdns0(maxUDP, o != nil && o.Do())
	return m
}

func (f *forwarder) askOne(q *dns.Msg, to string) (*dns.Msg, error) {
	a, err := f.over("udp", q, to)
	if err == nil && a.Truncated {
		if full, err := f.over("tcp", q, to); err == nil {
			return full, nil
		}
	}
	return a, err
}

var errMismatch = errors.New("the answer is to another question")

func (f *forwarder) over(network string, q *dns.Msg, to string) (*dns.Msg, error) {
	var conn net.Conn
	err := f.enter(func() (err error) {
		conn, err = net.DialTimeout(network, to, patience)
		return err
	})
	if err != nil {
		return nil, err
	}
	c := &dns.Client{Net: network, Timeout: patience, UDPSize: dns.MaxMsgSize}
	dc := &dns.Conn{Conn: conn, UDPSize: dns.MaxMsgSize}
	defer dc.Close()
	a, _, err := c.ExchangeWithConn(q, dc)
	if err != nil {
		return nil, err
	}
	if a.Id != q.Id || len(a.Question) != 1 || !strings.EqualFold(a.Question[0].Name, q.Question[0].Name) || a.Question[0].Qtype != q.Question[0].Qtype {
		return nil, errMismatch
	}
	return a, nil
}
