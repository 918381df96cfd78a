package dns

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"bramble.dev/internal/golden"
)

func ptr[T any](v T) *T { return &v }

func testConfig() Config {
	svc := func(ns, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
		s := &corev1.Service{}
		s.Namespace, s.Name, s.Spec.ClusterIP, s.Spec.Ports = ns, name, ip, ports
		return s
	}
	slice := func(ns, name, suffix string, ports []discoveryv1.EndpointPort, eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Ports: ports, Endpoints: eps}
		s.Namespace, s.Name = ns, name+suffix
		s.Labels = map[string]string{discoveryv1.LabelServiceName: name}
		return s
	}
	ep := func(ip, hostname string, ready bool) discoveryv1.Endpoint {
		e := discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
		if hostname != "" {
			e.Hostname = &hostname
		}
		return e
	}
	http := []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}, {Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}}
	eports := []discoveryv1.EndpointPort{{Name: ptr("http"), Port: ptr(int32(8080)), Protocol: ptr(corev1.ProtocolTCP)}, {Name: ptr("dns"), Port: ptr(int32(5353)), Protocol: ptr(corev1.ProtocolUDP)}}
	external := svc("default", "outside", "")
	external.Spec.Type, external.Spec.ExternalName = corev1.ServiceTypeExternalName, "www.example.com"
	alias := svc("default", "alias", "")
	alias.Spec.Type, alias.Spec.ExternalName = corev1.ServiceTypeExternalName, "web.default.svc.cluster.local"
	circle := svc("default", "circle", "")
	circle.Spec.Type, circle.Spec.ExternalName = corev1.ServiceTypeExternalName, "circle.default.svc.cluster.local"
	early := svc("default", "early", corev1.ClusterIPNone, http...)
	early.Spec.PublishNotReadyAddresses = true
	dual := svc("default", "dual", "10.43.0.90", http...)
	dual.Spec.ClusterIPs = []string{"10.43.0.90", "fd00::90"}
	six := slice("default", "db", "-six", eports, ep("fd00::5", "", true))
	six.AddressType = discoveryv1.AddressTypeIPv6
	return Config{
		Domain: "cluster.local", Listen: netip.MustParseAddrPort("127.0.0.1:0"), Self: netip.MustParseAddr("10.43.0.10"),
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16")},
		Services: []*corev1.Service{svc("default", "kubernetes", "10.43.0.1", corev1.ServicePort{Name: "https", Port: 443}), svc("default", "web", "10.43.0.20", http...),
			svc("default", "db", corev1.ClusterIPNone, http...), svc("default", "empty", corev1.ClusterIPNone, http...), external, alias, circle, early, dual},
		Endpoints: []*discoveryv1.EndpointSlice{
			slice("default", "web", "-a", eports, ep("10.42.1.5", "", true)),
			slice("default", "db", "-a", eports, ep("10.42.1.6", "db-0", true), ep("10.42.2.7", "", true), ep("10.42.2.8", "db-2", false)),
			six, slice("default", "early", "-a", eports, ep("10.42.2.9", "early-0", false)),
		},
	}
}

func open(t testing.TB, c Config) *Server {
	t.Helper()
	s := Open(Options{})
	if err := s.Set(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func query(name string, qtype uint16) *dns.Msg {
	m := new(dns.Msg)
	return m.SetQuestion(dns.Fqdn(name), qtype)
}

// show prints an answer, without what is the same in all of them.
func show(m *dns.Msg) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", dns.RcodeToString[m.Rcode])
	if m.Authoritative {
		b.WriteString(" aa")
	}
	if m.Truncated {
		b.WriteString(" tc")
	}
	for _, section := range []struct {
		name string
		rrs  []dns.RR
	}{{"", m.Answer}, {"authority: ", m.Ns}, {"additional: ", m.Extra}} {
		for _, rr := range section.rrs {
			b.WriteString("\n  " + section.name + strings.ReplaceAll(rr.String(), "\t", " "))
		}
	}
	return b.String()
}

// TestAnswers holds the whole answer to each kind of question.
func TestAnswers(t *testing.T) {
	s := open(t, testConfig())
	s.shuffle = func(int, func(i, j int)) {}
	var b strings.Builder
	for _, q := range []string{
		"kubernetes.default.svc.cluster.local A", "kubernetes.default.svc.cluster.local AAAA", "KuberneTes.default.SVC.cluster.LOCAL A",
		"web.default.svc.cluster.local A", "web.default.svc.cluster.local SRV", "web.default.svc.cluster.local TXT", "web.default.svc.cluster.local ANY",
		"_http._tcp.web.default.svc.cluster.local SRV", "_dns._udp.web.default.svc.cluster.local SRV", "_http._udp.web.default.svc.cluster.local SRV", "_http._tcp.web.default.svc.cluster.local A",
		"_tcp.web.default.svc.cluster.local SRV", "_sctp.web.default.svc.cluster.local SRV", "10-42-1-5.web.default.svc.cluster.local A",
		"dual.default.svc.cluster.local A", "dual.default.svc.cluster.local AAAA",
		"db.default.svc.cluster.local A", "db.default.svc.cluster.local AAAA", "db-0.db.default.svc.cluster.local A", "db-0.db.default.svc.cluster.local AAAA", "10-42-2-7.db.default.svc.cluster.local A",
		"db-2.db.default.svc.cluster.local A", "_http._tcp.db.default.svc.cluster.local SRV", "fd00--5.db.default.svc.cluster.local AAAA",
		"early.default.svc.cluster.local A", "empty.default.svc.cluster.local A", "empty.default.svc.cluster.local SRV",
		"alias.default.svc.cluster.local A", "alias.default.svc.cluster.local CNAME", "outside.default.svc.cluster.local CNAME", "circle.default.svc.cluster.local A", "below.outside.default.svc.cluster.local A",
		"10-42-9-9.default.pod.cluster.local A", "10-42-9-9.default.pod.cluster.local AAAA", "fd00--9.default.pod.cluster.local AAAA", "web.default.pod.cluster.local A", "default.pod.cluster.local A", "pod.cluster.local A",
		"1.0.43.10.in-addr.arpa PTR", "6.1.42.10.in-addr.arpa PTR", "7.2.42.10.in-addr.arpa PTR", "99.99.42.10.in-addr.arpa PTR", "1.0.43.10.in-addr.arpa A",
		"0.9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR",
		"nobody.default.svc.cluster.local A", "web.nowhere.svc.cluster.local A", "nowhere.svc.cluster.local A", "default.svc.cluster.local A", "svc.cluster.local A", "cluster.local A", "cluster.local SOA", "cluster.local NS",
		"ns.cluster.local A", "dns-version.cluster.local TXT", "dns-version.cluster.local A", "a.b.c.web.default.svc.cluster.local A", "what.cluster.local A",
		"www.example.com.default.svc.cluster.local A", "www.example.com A", "web.default.svc.cluster.local.example.com A", "svc.cluster.local.example.com A",
	} {
		name, typ, _ := strings.Cut(q, " ")
		fmt.Fprintf(&b, "%s\n%s\n\n", q, show(s.Answer(query(name, dns.StringToType[typ]), true)))
	}
	golden.Compare(t, "testdata/answers.txt", b.String())
}

func exchange(t testing.TB, network string, addr netip.AddrPort, q *dns.Msg) *dns.Msg {
	t.Helper()
	c := &dns.Client{Net: network, Timeout: 5 * time.Second}
	m, _, err := c.Exchange(q, addr.String())
	if err != nil {
		t.Fatalf("%s: %v", network, err)
	}
	return m
}

func TestTransports(t *testing.T) {
	c := testConfig()
	big := c.Endpoints[1].DeepCopy()
	big.Endpoints = nil
	for i := range 100 {
		big.Endpoints = append(big.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.42.3.%d", i+1)}})
	}
	c.Endpoints = append(c.Endpoints, big)
	s := open(t, c)
	name := "db.default.svc.cluster.local"
	whole := exchange(t, "tcp", s.Addr(), query(name, dns.TypeA))
	if whole.Truncated || len(whole.Answer) != 100 {
		t.Errorf("TCP: %d addresses, truncated %v", len(whole.Answer), whole.Truncated)
	}
	cut := exchange(t, "udp", s.Addr(), query(name, dns.TypeA))
	cut.Compress = true
	if !cut.Truncated || cut.Len() > 512 {
		t.Errorf("UDP: %d bytes, truncated %v", cut.Len(), cut.Truncated)
	}
	q := query(name, dns.TypeA)
	q.SetEdns0(4096, false)
	more := exchange(t, "udp", s.Addr(), q)
	if !more.Truncated || len(more.Answer) <= len(cut.Answer) || more.IsEdns0() == nil {
		t.Errorf("UDP with EDNS: %d addresses (without: %d), truncated %v", len(more.Answer), len(cut.Answer), more.Truncated)
	}
	q = query(name, dns.TypeA)
	q.SetEdns0(4096, false)
	q.IsEdns0().SetVersion(1)
	if m := exchange(t, "udp", s.Addr(), q); m.Rcode != dns.RcodeBadVers {
		t.Errorf("EDNS of the future: %s", dns.RcodeToString[m.Rcode])
	}
	q = query(name, dns.TypeA)
	q.Question[0].Qclass = dns.ClassCHAOS
	if m := exchange(t, "udp", s.Addr(), q); m.Rcode != dns.RcodeRefused {
		t.Errorf("another class: %s", dns.RcodeToString[m.Rcode])
	}
}

// TestSpread: each address is the first one now and then.
func TestSpread(t *testing.T) {
	s := open(t, testConfig())
	first := map[string]int{}
	for range 200 {
		m := s.Answer(query("db.default.svc.cluster.local", dns.TypeA), true)
		first[m.Answer[0].(*dns.A).A.String()]++
	}
	if first["10.42.1.6"] < 50 || first["10.42.2.7"] < 50 {
		t.Errorf("first: %v", first)
	}
}

func TestChanges(t *testing.T) {
	c := testConfig()
	s := open(t, c)
	at := s.Addr()
	ask := func(name string, typ uint16) string { return show(s.Answer(query(name, typ), true)) }
	if !strings.Contains(ask("5.1.42.10.in-addr.arpa", dns.TypePTR), "10-42-1-5.web") {
		t.Error("no reverse name of a pod behind a Service")
	}
	all := c.Services
	alias := all[1].DeepCopy()
	alias.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}
	c.Services = append([]*corev1.Service{alias}, all[2:]...)
	if err := s.Set(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	if got := ask("5.1.42.10.in-addr.arpa", dns.TypePTR); !strings.HasPrefix(got, "NXDOMAIN") {
		t.Errorf("reverse of what was behind an alias: %s", got)
	}
	c.Services = all[2:]
	if err := s.Set(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	if s.Addr() != at {
		t.Errorf("the server moved from %v to %v", at, s.Addr())
	}
	for _, q := range []string{"web.default.svc.cluster.local", "kubernetes.default.svc.cluster.local"} {
		if got := ask(q, dns.TypeA); !strings.HasPrefix(got, "NXDOMAIN") {
			t.Errorf("%s is gone, but: %s", q, got)
		}
	}
	if got := ask("5.1.42.10.in-addr.arpa", dns.TypePTR); !strings.HasPrefix(got, "NXDOMAIN") {
		t.Errorf("reverse: %s", got)
	}
	c.Services = nil
	if err := s.Set(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	if got := ask("default.svc.cluster.local", dns.TypeA); !strings.HasPrefix(got, "NXDOMAIN") {
		t.Errorf("a namespace without Services: %s", got)
	}
	if len(s.zone.byIP)+len(s.zone.known)+len(s.zone.namespaces) > 0 {
		t.Errorf("left: %v %v %v", s.zone.byIP, s.zone.known, s.zone.namespaces)
	}
	c.Services = all
	c.Domain = "example.internal"
	if err := s.Set(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	if got := ask("web.default.svc.example.internal", dns.TypeA); !strings.Contains(got, "10.43.0.20") {
		t.Errorf("another domain: %s", got)
	}
}

// TestPortIsTaken: port 53 of all addresses is somebody's.
func TestPortIsTaken(t *testing.T) {
	first := open(t, testConfig())
	c := testConfig()
	c.Listen = first.Addr()
	second := open(t, c)
	if second.Addr() == first.Addr() || !second.Addr().IsValid() {
		t.Fatalf("the second server is at %v", second.Addr())
	}
	if m := exchange(t, "udp", second.Addr(), query("web.default.svc.cluster.local", dns.TypeA)); len(m.Answer) != 1 {
		t.Errorf("got %s", show(m))
	}
	if err := second.Set(context.Background(), c); err != nil {
		t.Fatal(err)
	}
}

// TestRestart: a new server answers on the port at once.
func TestRestart(t *testing.T) {
	c := testConfig()
	one := Open(Options{})
	if err := one.Set(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	c.Listen = one.Addr()
	tcp, err := dns.Dial("tcp", one.Addr().String()) // an open connection does not hold the port
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	two := open(t, c)
	if two.Addr() != c.Listen {
		t.Fatalf("the new server is at %v, not %v", two.Addr(), c.Listen)
	}
	for _, network := range []string{"udp", "tcp"} {
		exchange(t, network, two.Addr(), query("web.default.svc.cluster.local", dns.TypeA))
	}
	if d := time.Since(start); d > 300*time.Millisecond {
		t.Errorf("answered after %v", d)
	}
}
