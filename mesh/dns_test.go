package mesh

import (
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
)

// lookup asks for a name's address from a namespace.
func lookup(in func(func() error) error, network, server, name string) (string, error) {
	var conn net.Conn
	if err := in(func() (err error) { conn, err = net.DialTimeout(network, server, time.Second); return err }); err != nil {
		return "", err
	}
	defer conn.Close()
	q := new(dns.Msg)
	q.SetQuestion(name, dns.TypeA)
	c := &dns.Client{Net: network, Timeout: time.Second}
	m, _, err := c.ExchangeWithConn(q, &dns.Conn{Conn: conn})
	if err != nil {
		return "", err
	}
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			return a.A.String(), nil
		}
	}
	return dns.RcodeToString[m.Rcode], nil
}

func TestNames(t *testing.T) {
	for _, taken := range []bool{false, true} {
		name := "port 53 is free"
		if taken {
			name = "port 53 is taken"
		}
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 2)
			h := c.hosts[0]
			if taken { // as dnsmasq on a router board does
				h.Listen("tcp4", "0.0.0.0:53")
				h.ListenPacket("0.0.0.0:53")
			}
			up := c.outside.ListenPacket("192.168.50.254:53")
			go func() {
				s := &dns.Server{PacketConn: up, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
					m := new(dns.Msg)
					m.SetReply(q)
					m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1)}}
					w.WriteMsg(m)
				})}
				s.ActivateAndServe()
			}()
			c.change = func(cfg *Config) { cfg.Upstream = []string{"192.168.50.254"} }
			c.services = []*corev1.Service{newService("web", "10.43.7.7", corev1.ServicePort{Port: 80})}
			c.set()
			a := h.pod("a")
			check := func(when string) {
				t.Helper()
				for from, in := range map[string]func(func() error) error{"pod": a.in, "host": h.Do} {
					for _, network := range []string{"udp4", "tcp4"} {
						for _, server := range []string{"10.43.0.10:53", "10.42.1.1:53"} {
							if got, err := lookup(in, network, server, "web.default.svc.cluster.local."); got != "10.43.7.7" {
								t.Errorf("%s: %s, %s to %s: %q, %v", when, from, network, server, got, err)
							}
						}
					}
				}
				if got, err := lookup(a.in, "udp4", "10.43.0.10:53", "www.example.com."); got != "192.0.2.1" {
					t.Errorf("%s: a name outside: %q, %v", when, got, err)
				}
			}
			check("at first")
			h.Must(h.Mesh.Close)
			h.open()
			start := time.Now()
			h.Must(func() error { return h.Mesh.Set(t.Context(), c.config(h)) })
			if got, err := lookup(a.in, "udp4", "10.43.0.10:53", "web.default.svc.cluster.local."); got != "10.43.7.7" {
				t.Errorf("after a restart: %q, %v", got, err)
			}
			if d := time.Since(start); d > 300*time.Millisecond {
				t.Errorf("answered %v after a restart", d)
			}
			check("after a restart")
		})
	}
}
