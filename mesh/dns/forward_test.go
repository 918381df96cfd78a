package dns

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// resolver is a real name server with answers made by a function.
func resolver(t testing.TB, h dns.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{Listener: l, Handler: h}, {PacketConn: pc, Handler: h}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() { s.Shutdown(); <-done })
	}
	return l.Addr().String()
}

func answerA(name string, ttl uint32, ips ...string) []dns.RR {
	var out []dns.RR
	for _, ip := range ips {
		out = append(out, &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: net.ParseIP(ip)})
	}
	return out
}

func TestForward(t *testing.T) {
	var asked atomic.Int64
	up := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		asked.Add(1)
		m := new(dns.Msg)
		m.SetReply(q)
		name := q.Question[0].Name
		switch {
		case strings.HasPrefix(name, "big."):
			for i := range 100 {
				m.Answer = append(m.Answer, answerA(name, 60, fmt.Sprintf("192.0.2.%d", i))...)
			}
			if w.LocalAddr().Network() == "udp" {
				m.Truncate(512)
			}
		case strings.HasPrefix(name, "none."):
			m.Rcode = dns.RcodeNameError
			m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "example.com.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 600}, Ns: "ns.example.com.", Mbox: "x.example.com.", Minttl: 600}}
		case strings.HasPrefix(name, "fails."):
			m.Rcode = dns.RcodeServerFailure
		default:
			m.Answer = answerA(name, 60, "192.0.2.1")
		}
		w.WriteMsg(m)
	})
	dead, err := net.ListenPacket("udp4", "127.0.0.1:0") // takes queries and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	c := testConfig()
	c.Upstream = []string{"nonsense", dead.LocalAddr().String(), up, "10.43.0.10"}
	s := open(t, c)
	ask := func(name string) *dns.Msg {
		q := query(name, dns.TypeA)
		m := s.Answer(q, true)
		if m.Id != q.Id || !m.Response || !m.RecursionAvailable || m.Authoritative || len(m.Question) != 1 || m.Question[0] != q.Question[0] {
			t.Errorf("%s: header %v", name, m.MsgHdr)
		}
		return m
	}
	start := time.Now()
	if m := ask("www.example.com"); len(m.Answer) != 1 {
		t.Fatalf("got %s", show(m))
	}
	if d := time.Since(start); d < patience {
		t.Errorf("the dead resolver was not asked first (%v)", d)
	}
	start = time.Now()
	for i := range 5 {
		ask(fmt.Sprintf("w%d.example.com", i))
	}
	if d := time.Since(start); d > patience {
		t.Errorf("the dead resolver is asked again and again: %v", d)
	}
	n := asked.Load()
	if m := ask("WWW.Example.com"); len(m.Answer) != 1 || m.Answer[0].Header().Name != "WWW.Example.com." {
		t.Errorf("in another case: %s", show(m))
	}
	ask("none.example.com")
	if m := ask("none.example.com"); m.Rcode != dns.RcodeNameError || len(m.Ns) != 1 {
		t.Errorf("none: %s", show(m))
	}
	if got := asked.Load() - n; got != 1 {
		t.Errorf("%d questions were asked, want 1: the others are known", got)
	}
	if m := ask("big.example.com"); len(m.Answer) != 100 || m.Truncated {
		t.Errorf("big: %d answers, truncated %v", len(m.Answer), m.Truncated)
	}
	if m := ask("fails.example.com"); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("fails: %s", show(m))
	}
	n = asked.Load()
	ask("fails.example.com")
	if asked.Load() == n {
		t.Error("a failure was remembered")
	}
	m := s.Answer(query("outside.default.svc.cluster.local", dns.TypeA), true)
	if got := show(m); !strings.Contains(got, "CNAME www.example.com.") || !strings.Contains(got, "www.example.com. ") || !strings.Contains(got, "192.0.2.1") {
		t.Errorf("an external name: %s", got)
	}
	// The link goes down: what was known is still answered.
	c.Upstream = nil
	if err := s.Set(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	if m := ask("www.example.com"); len(m.Answer) != 1 {
		t.Errorf("without a link: %s", show(m))
	}
	if m := ask("never.example.com"); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("never asked: %s", show(m))
	}
}

// forwarding is a server that asks one resolver.
func forwarding(t *testing.T, up string) *Server {
	t.Helper()
	c := testConfig()
	c.Upstream = []string{up}
	return open(t, c)
}

// resolve answers as a resolver does that knows an address, for some seconds.
func resolve(w dns.ResponseWriter, q *dns.Msg, seconds uint32) {
	m := new(dns.Msg).SetReply(q)
	m.Answer = answerA(q.Question[0].Name, seconds, "192.0.2.1")
	w.WriteMsg(m)
}

// TestQuestionsOnTheirWay: a question outlives the client that asked it, so they are bounded by themselves.
func TestQuestionsOnTheirWay(t *testing.T) {
	var asked atomic.Int64
	s := forwarding(t, resolver(t, func(w dns.ResponseWriter, q *dns.Msg) { asked.Add(1); resolve(w, q, 1) }))
	s.forward.mu.Lock()
	for i := range maxWaiting {
		s.forward.flights[key{name: fmt.Sprint(i)}] = &flight{done: make(chan struct{})}
	}
	s.forward.mu.Unlock()
	if m := s.Answer(query("www.example.com", dns.TypeA), true); m.Rcode != dns.RcodeServerFailure || asked.Load() != 0 {
		t.Errorf("one more was asked %d times: %s", asked.Load(), show(m))
	}
	s.forward.mu.Lock()
	clear(s.forward.flights)
	s.forward.mu.Unlock()
	if m := s.Answer(query("www.example.com", dns.TypeA), true); len(m.Answer) != 1 {
		t.Errorf("when they are back: %s", show(m))
	}
}

// TestLostDatagram: a link that loses one is no reason to say that there is no answer; what is known from before is given at once.
func TestLostDatagram(t *testing.T) {
	var asked atomic.Int64
	up := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		if asked.Add(1)%2 == 1 {
			return
		}
		resolve(w, q, 1)
	})
	s := forwarding(t, up)
	for _, want := range []int64{2, 3} { // the second time the answer is there, and stale
		if m := s.Answer(query("www.example.com", dns.TypeA), true); len(m.Answer) != 1 || asked.Load() != want {
			t.Errorf("asked %d times, want %d: %s", asked.Load(), want, show(m))
		}
		time.Sleep(1100 * time.Millisecond)
	}
}

// TestResolverThatKnowsNothing: the router of a site that is cut off is there, and says that it cannot find anything.
func TestResolverThatKnowsNothing(t *testing.T) {
	for _, rcode := range []int{dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNotImplemented, dns.RcodeNameError} {
		t.Run(dns.RcodeToString[rcode], func(t *testing.T) {
			up := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
				w.WriteMsg(new(dns.Msg).SetRcode(q, rcode))
			})
			s := forwarding(t, up)
			q := query("www.example.com", dns.TypeA)
			known := new(dns.Msg).SetReply(q)
			known.Answer = answerA("www.example.com.", 60, "192.0.2.1")
			s.forward.cache.put(keyOf(q), known, time.Now().Add(-time.Hour))
			m := s.Answer(q, true)
			if rcode == dns.RcodeNameError { // that is knowledge, and newer
				if m.Rcode != rcode || len(m.Answer) != 0 {
					t.Errorf("got %s", show(m))
				}
			} else if m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 {
				t.Errorf("what was known is not answered: %s", show(m))
			}
			if m := s.Answer(query("never.example.com", dns.TypeA), true); m.Rcode != rcode {
				t.Errorf("never asked before: %s", show(m))
			}
		})
	}
}

// TestOneFlight: who asks what somebody is asking already waits for that answer.
func TestOneFlight(t *testing.T) {
	var asked atomic.Int64
	release := make(chan struct{})
	up := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		asked.Add(1)
		<-release
		resolve(w, q, 60)
	})
	s := forwarding(t, up)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if m := s.Answer(query("www.example.com", dns.TypeA), false); len(m.Answer) != 1 {
				t.Errorf("got %s", show(m))
			}
		})
	}
	for asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	close(release)
	wg.Wait()
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// TestManyWaitInVain: on a site that is cut off, however many ask for names outside, the cluster's own names are answered.
func TestManyWaitInVain(t *testing.T) {
	dead, err := net.ListenPacket("udp4", "127.0.0.1:0") // takes queries and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	c := testConfig()
	c.Upstream = []string{dead.LocalAddr().String()}
	s := open(t, c)
	for _, name := range []string{"www%[2]d.example.com", "www%[1]d.example.com"} { // one name for all, a name for each
		pods, err := net.Dial("udp4", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer pods.Close()
		for i := range 2 * maxQueries {
			b, err := query(fmt.Sprintf(name, i, 0), dns.TypeA).Pack()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := pods.Write(b); err != nil {
				t.Fatal(err)
			}
			if i%16 == 0 {
				time.Sleep(time.Millisecond) // the socket's buffer is not what is tested
			}
		}
		begun := time.Now()
		client := &dns.Client{Timeout: time.Second}
		m, _, err := client.Exchange(query("web.default.svc.cluster.local", dns.TypeA), s.Addr().String())
		if err != nil || len(m.Answer) != 1 {
			t.Errorf("%s: after %v: %v", name, time.Since(begun), err)
		}
		time.Sleep(patience + 100*time.Millisecond)
	}
}

// TestSilence: who walks a search list while no resolver says anything waits its patience out once, not for each name, and the first answer
// ends that: it is for those who ask next, when the client that asked waits no longer.
func TestSilence(t *testing.T) {
	var there atomic.Bool
	up := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		if there.Load() {
			time.Sleep(hasty + 100*time.Millisecond) // a slow link
			resolve(w, q, 60)
		}
	})
	s := forwarding(t, up)
	known := query("www.example.com", dns.TypeA)
	m := new(dns.Msg).SetReply(known)
	m.Answer = answerA("www.example.com.", 60, "192.0.2.1")
	s.forward.cache.put(keyOf(known), m, time.Now().Add(-time.Hour))
	var wg sync.WaitGroup
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} { // as a C library asks
		wg.Go(func() { s.Answer(query("www.example.com.lan", qtype), true) })
	}
	wg.Wait()
	begun := time.Now()
	for range 2 {
		if m := s.Answer(query("www.example.com.home", dns.TypeA), true); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("got %s", show(m))
		}
	}
	if m := s.Answer(known, true); len(m.Answer) != 1 {
		t.Errorf("what was known is not answered: %s", show(m))
	}
	if d := time.Since(begun); d > 3*hasty+patience/2 {
		t.Errorf("after %v", d)
	}
	there.Store(true)
	for end := time.Now().Add(tries * patience); ; {
		if m := s.Answer(query("new.example.com", dns.TypeA), true); len(m.Answer) == 1 {
			break
		} else if time.Now().After(end) {
			t.Fatalf("the link is back: %s", show(m))
		}
	}
	if m := s.Answer(query("slow.example.com", dns.TypeA), true); len(m.Answer) != 1 {
		t.Errorf("clients are in a hurry still: %s", show(m))
	}
}

func TestCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache()
		m := query("www.example.com", dns.TypeA)
		m.Answer = answerA("www.example.com.", 60, "192.0.2.1")
		k := keyOf(m)
		ttlAt := func() (uint32, bool) {
			a, fresh := c.get(k, time.Now())
			if a == nil {
				return 0, false
			}
			return a.Answer[0].Header().Ttl, fresh
		}
		c.put(k, m, time.Now())
		for _, step := range []struct {
			wait  time.Duration
			ttl   uint32
			fresh bool
		}{{0, 60, true}, {10 * time.Second, 50, true}, {49 * time.Second, 1, true}, {time.Second, ttl, false}, {stale, ttl, false}, {time.Second, 0, false}} {
			time.Sleep(step.wait)
			if ttl, fresh := ttlAt(); ttl != step.ttl || fresh != step.fresh {
				t.Errorf("after %v more: TTL %d, fresh %v; want %d, %v", step.wait, ttl, fresh, step.ttl, step.fresh)
			}
		}
		for i := range maxEntries + 100 {
			q := query(fmt.Sprintf("n%d.example.com", i), dns.TypeA)
			q.Answer = answerA(q.Question[0].Name, 60, "192.0.2.1")
			c.put(keyOf(q), q, time.Now())
			c.get(keyOf(query("n0.example.com", dns.TypeA)), time.Now())
		}
		if len(c.entries) != maxEntries || c.order.Len() != maxEntries {
			t.Errorf("%d entries", len(c.entries))
		}
		if a, _ := c.get(keyOf(query("n0.example.com", dns.TypeA)), time.Now()); a == nil {
			t.Error("the entry that is used all the time went")
		}
		if a, _ := c.get(keyOf(query("n1.example.com", dns.TypeA)), time.Now()); a != nil {
			t.Error("the entry that nobody uses stayed")
		}
		for name, m := range map[string]*dns.Msg{
			"no life":  {Answer: answerA("x.", 0, "192.0.2.1")},
			"no SOA":   {MsgHdr: dns.MsgHdr{Rcode: dns.RcodeNameError}},
			"failure":  {MsgHdr: dns.MsgHdr{Rcode: dns.RcodeServerFailure}},
			"cut":      {MsgHdr: dns.MsgHdr{Truncated: true}, Answer: answerA("x.", 60, "192.0.2.1")},
			"too long": {Answer: answerA(strings.Repeat("x.", 100), 60, strings.Fields(strings.Repeat("192.0.2.1 ", 500))...)},
		} {
			k := key{name: name}
			c.put(k, m, time.Now())
			if a, _ := c.get(k, time.Now()); a != nil {
				t.Errorf("%s was kept", name)
			}
		}
	})
}
