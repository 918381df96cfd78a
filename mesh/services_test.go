package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// refused says whether a connection is refused at once, dropped whether nothing answers.
func refused(in func(func() error) error, addr string) bool {
	_, err := get(in, addr)
	return errors.Is(err, unix.ECONNREFUSED)
}

func dropped(in func(func() error) error, addr string) bool {
	err := in(func() error {
		c, err := net.DialTimeout("tcp4", addr, 300*time.Millisecond)
		if err == nil {
			c.Close()
		}
		return err
	})
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// answers collects who answers n connections.
func answers(t testing.TB, in func(func() error) error, addr string, n int) string {
	t.Helper()
	seen := map[string]bool{}
	var names []string
	for range n {
		name, _ := mustGet(t, in, addr)
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	if len(names) > 1 {
		return "several"
	}
	return names[0]
}

func TestServices(t *testing.T) {
	c := newCluster(t, 2)
	c.set()
	h1, h2 := c.hosts[0], c.hosts[1]
	a, b := h1.pod("a"), h2.pod("b")
	serve(t, a.in, ":8080", "a")
	serve(t, b.in, ":8080", "b")
	serve(t, h2.Do, "192.168.50.2:9000", "h2")
	http := corev1.ServicePort{Port: 80, NodePort: 30080}
	set := func(t *testing.T, s *corev1.Service, eps ...*discoveryv1.EndpointSlice) {
		t.Helper()
		c.services, c.slices = []*corev1.Service{s}, eps
		c.set()
	}
	vip := "10.43.7.7:80"
	clients := map[string]func(func() error) error{"pod a": a.in, "pod b": b.in, "host 1": h1.Do, "host 2": h2.Do}

	t.Run("without endpoints it is refused", func(t *testing.T) {
		set(t, newService("web", "10.43.7.7", http), newSlice("web", 8080))
		for name, in := range clients {
			for _, addr := range []string{vip, "192.168.50.1:30080", "192.168.50.2:30080"} {
				if !refused(in, addr) {
					t.Errorf("%s to %s is not refused", name, addr)
				}
			}
		}
		if !refused(c.outside.Do, "192.168.50.1:30080") {
			t.Error("from outside the node port is not refused")
		}
	})
	t.Run("another port, another address", func(t *testing.T) {
		set(t, newService("web", "10.43.7.7", http), newSlice("web", 8080, a))
		for name, in := range clients {
			for _, addr := range []string{"10.43.7.7:81", "10.43.7.8:80"} {
				if !refused(in, addr) {
					t.Errorf("%s to %s is not refused", name, addr)
				}
			}
		}
	})
	t.Run("sources", func(t *testing.T) {
		set(t, newService("web", "10.43.7.7", http), newSlice("web", 8080, a))
		for _, tt := range []struct {
			name string
			in   func(func() error) error
			addr string
			want string
		}{
			{"a pod keeps its address", b.in, vip, b.IP.String()},
			{"a pod that reaches itself sees its node", a.in, vip, "10.42.1.1"},
			{"and through the node port", a.in, "192.168.50.1:30080", "10.42.1.1"},
			{"a client from outside is seen by the node's own pods", c.outside.Do, "192.168.50.1:30080", "192.168.50.254"},
			{"but comes to others by the node", c.outside.Do, "192.168.50.2:30080", "10.42.2.1"},
			{"the pod's host", h1.Do, vip, "10.42.1.1"},
			{"the pod's host by its loopback", h1.Do, "127.0.0.1:30080", "10.42.1.1"},
			{"another host", h2.Do, vip, "10.42.2.1"},
			{"another host by its loopback", h2.Do, "127.0.0.1:30080", "10.42.2.1"},
			{"a host to a pod", h2.Do, a.IP.String() + ":8080", "10.42.2.1"},
		} {
			if _, from := mustGet(t, tt.in, tt.addr); from != tt.want {
				t.Errorf("%s: the pod sees %s, want %s", tt.name, from, tt.want)
			}
		}
		serve(t, c.outside.Do, "192.168.50.254:8000", "out")
		if _, from := mustGet(t, a.in, "192.168.50.254:8000"); from != "192.168.50.1" {
			t.Errorf("outside the cluster a pod is seen as %s, want its node", from)
		}
	})
	t.Run("external address", func(t *testing.T) {
		s := newService("web", "10.43.7.7", http)
		s.Spec.ExternalIPs = []string{"198.51.100.9"}
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.7"}}
		s.Spec.LoadBalancerSourceRanges = []string{"192.168.50.0/25", "10.42.1.0/24"}
		set(t, s, newSlice("web", 8080, a, b))
		c.outside.Run("ip", "route", "replace", "198.51.100.9", "via", "192.168.50.1")
		c.outside.Run("ip", "route", "replace", "203.0.113.7", "via", "192.168.50.1")
		if got := answers(t, c.outside.Do, "198.51.100.9:80", 20); got != "several" {
			t.Errorf("the external address: %s", got)
		}
		if !dropped(c.outside.Do, "203.0.113.7:80") {
			t.Error("a client that is not in the source ranges came through")
		}
		for name, in := range map[string]func(func() error) error{"pod a": a.in, "host 1": h1.Do} {
			if got := answers(t, in, "203.0.113.7:80", 20); got != "several" {
				t.Errorf("the balancer's address from %s: %s", name, got)
			}
		}
	})
	t.Run("external traffic policy Local", func(t *testing.T) {
		s := newService("web", "10.43.7.7", http)
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		set(t, s, newSlice("web", 8080, a))
		if name, from := mustGet(t, c.outside.Do, "192.168.50.1:30080"); name != "a" || from != "192.168.50.254" {
			t.Errorf("%s answered to %s", name, from)
		}
		if !dropped(c.outside.Do, "192.168.50.2:30080") {
			t.Error("a node without an endpoint answers from outside")
		}
		for name, in := range map[string]func(func() error) error{"pod b": b.in, "host 2": h2.Do} {
			if got := answers(t, in, "192.168.50.2:30080", 3); got != "a" {
				t.Errorf("%s: %s", name, got)
			}
		}
	})
	t.Run("internal traffic policy Local", func(t *testing.T) {
		s := newService("web", "10.43.7.7", http)
		local := corev1.ServiceInternalTrafficPolicyLocal
		s.Spec.InternalTrafficPolicy = &local
		set(t, s, newSlice("web", 8080, a, b))
		for name, in := range map[string]func(func() error) error{"a": a.in, "b": b.in} {
			if got := answers(t, in, vip, 20); got != name {
				t.Errorf("pod %s got %s", name, got)
			}
		}
		set(t, s, newSlice("web", 8080, a))
		if !dropped(b.in, vip) {
			t.Error("a node without an endpoint answers")
		}
		if got := answers(t, b.in, "192.168.50.2:30080", 3); got != "a" {
			t.Errorf("the node port: %s", got)
		}
	})
	t.Run("session affinity", func(t *testing.T) {
		s := newService("web", "10.43.7.7", http)
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		two := newSlice("web", 8080, a, b)
		set(t, s, two)
		first := map[string]string{}
		for name, in := range clients {
			if first[name] = answers(t, in, vip, 20); first[name] == "several" {
				t.Errorf("%s changed its endpoint", name)
			}
		}
		// A new agent keeps them there.
		h1.Must(func() error { h1.Mesh.Close(); return nil })
		h1.open()
		c.set()
		for _, name := range []string{"pod a", "host 1"} {
			if got := answers(t, clients[name], vip, 10); got != first[name] {
				t.Errorf("after a restart %s went from %s to %s", name, first[name], got)
			}
		}
		// The endpoint goes, and the client with it.
		set(t, s, newSlice("web", 8080, b))
		if got := answers(t, a.in, vip, 10); got != "b" {
			t.Errorf("of the one endpoint left: %s", got)
		}
	})
	t.Run("an endpoint on a host", func(t *testing.T) {
		sl := newSlice("web", 9000)
		sl.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"192.168.50.2"}, NodeName: &h2.Name}}
		set(t, newService("web", "10.43.7.7", http), sl)
		for name, in := range clients {
			if got, err := get(in, vip); err != nil || !strings.HasPrefix(got, "h2 ") {
				t.Errorf("%s: %q, %v", name, got, err)
			}
			if got, err := get(in, "192.168.50.1:30080"); err != nil || !strings.HasPrefix(got, "h2 ") {
				t.Errorf("%s by node port: %q, %v", name, got, err)
			}
		}
		if got, err := get(c.outside.Do, "192.168.50.1:30080"); err != nil || !strings.HasPrefix(got, "h2 ") {
			t.Errorf("from outside: %q, %v", got, err)
		}
	})
	t.Run("the API server", func(t *testing.T) {
		defer func() { c.change = nil }()
		for i, at := range []string{"10.42.1.1:6444", "127.0.0.1:6445"} {
			serve(t, h1.Do, at, "api"+at)
			c.change = func(cfg *Config) {
				if cfg.Node == h1.Name {
					cfg.API = netip.MustParseAddrPort(at)
				}
			}
			set(t, newService("web", "10.43.7.7", http))
			for name, in := range map[string]func(func() error) error{"pod": a.in, "host": h1.Do} {
				if got, err := get(in, "10.43.0.1:443"); err != nil || !strings.HasPrefix(got, "api"+at) {
					t.Errorf("%d: %s to the API: %q, %v", i, name, got, err)
				}
			}
		}
	})
	t.Run("the host's loopback is not the pods'", func(t *testing.T) {
		serve(t, h1.Do, "127.0.0.1:7000", "secret")
		a.Run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip addr del 127.0.0.1/8 dev lo; ip route replace 127.0.0.1 via 10.42.1.1 dev eth0 src "+a.IP.String())
		defer a.Run("sh", "-c", "ip route del 127.0.0.1; ip addr add 127.0.0.1/8 dev lo")
		if s, err := get(a.in, "127.0.0.1:7000"); err == nil {
			t.Errorf("a pod reached the host's loopback: %q", s)
		}
	})
}

func TestHostPorts(t *testing.T) {
	c := newCluster(t, 2)
	c.set()
	h1, h2 := c.hosts[0], c.hosts[1]
	a := h1.pod("a", HostPort{HostPort: 8081, Port: 8080}, HostPort{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 8082, Port: 8080, Protocol: corev1.ProtocolTCP})
	b := h2.pod("b")
	serve(t, a.in, ":8080", "a")
	for name, in := range map[string]func(func() error) error{"itself": a.in, "pod b": b.in, "host 1": h1.Do, "host 2": h2.Do, "outside": c.outside.Do} {
		if got, err := get(in, "192.168.50.1:8081"); err != nil || !strings.HasPrefix(got, "a ") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, port := range []string{"8081", "8082"} {
		if got, err := get(h1.Do, "127.0.0.1:"+port); err != nil || !strings.HasPrefix(got, "a ") {
			t.Errorf("by loopback, port %s: %q, %v", port, got, err)
		}
	}
	if got, err := get(c.outside.Do, "192.168.50.1:8082"); err == nil {
		t.Errorf("the port of 127.0.0.1 answers outside: %q", got)
	}
	h1.Must(func() error { return h1.Detach(context.Background(), a.uid) })
	if !refused(c.outside.Do, "192.168.50.1:8081") {
		t.Error("the port of a pod that is gone is not refused")
	}
}

// TestUDPFollowsEndpoints: a client that keeps one socket is led to the next endpoint.
func TestUDPFollowsEndpoints(t *testing.T) {
	c := newCluster(t, 2)
	c.set()
	h1, h2 := c.hosts[0], c.hosts[1]
	a, b, client := h1.pod("a"), h2.pod("b"), h1.pod("client")
	echo := func(p *testPod, name string) {
		var pc net.PacketConn
		if err := p.in(func() (err error) { pc, err = net.ListenPacket("udp4", ":5353"); return err }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pc.Close() })
		go func() {
			buf := make([]byte, 100)
			for {
				_, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				pc.WriteTo([]byte(name), from)
			}
		}()
	}
	echo(a, "a")
	echo(b, "b")
	udp := corev1.ProtocolUDP
	slice := func(pods ...*testPod) []*discoveryv1.EndpointSlice {
		s := newSlice("dns", 5353, pods...)
		s.Ports[0].Protocol = &udp
		return []*discoveryv1.EndpointSlice{s}
	}
	c.services = []*corev1.Service{newService("dns", "10.43.7.53", corev1.ServicePort{Port: 53, Protocol: udp, NodePort: 30053})}
	for _, addr := range []string{"10.43.7.53:53", "192.168.50.1:30053"} {
		var conn net.Conn
		if err := client.in(func() (err error) { conn, err = net.Dial("udp4", addr); return err }); err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ask := func() string {
			buf := make([]byte, 100)
			for range 3 {
				conn.SetDeadline(time.Now().Add(500 * time.Millisecond))
				conn.Write([]byte("?"))
				if n, err := conn.Read(buf); err == nil {
					return string(buf[:n])
				}
			}
			return "nobody"
		}
		for _, step := range []struct {
			pods []*testPod
			want string
		}{{nil, "nobody"}, {[]*testPod{a}, "a"}, {[]*testPod{b}, "b"}, {nil, "nobody"}, {[]*testPod{a}, "a"}} {
			c.slices = slice(step.pods...)
			c.set()
			if got := ask(); got != step.want {
				t.Errorf("%s, endpoints %d: %s answers, want %s", addr, len(step.pods), got, step.want)
			}
		}
	}
}

// TestNoConnectionFailsWhileItRolls: new connections all the time, while the endpoints are exchanged
// one by one; an old one still answers for a moment after it left the slices.
func TestNoConnectionFailsWhileItRolls(t *testing.T) {
	c := newCluster(t, 2)
	c.set()
	h1, h2 := c.hosts[0], c.hosts[1]
	var pods []*testPod
	for i := range 8 {
		p := c.hosts[i%2].pod(fmt.Sprintf("p%d", i))
		serve(t, p.in, ":8080", p.Name())
		pods = append(pods, p)
	}
	sticky := newService("sticky", "10.43.7.8", corev1.ServicePort{Port: 80})
	sticky.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	c.services = []*corev1.Service{newService("web", "10.43.7.7", corev1.ServicePort{Port: 80, NodePort: 30080}), sticky}
	roll := func(pods []*testPod) {
		c.slices = []*discoveryv1.EndpointSlice{newSlice("web", 8080, pods...), newSlice("sticky", 8080, pods...)}
		c.set()
	}
	roll(pods[:3])
	stop := make(chan struct{})
	var done, failed atomic.Int64
	var wg sync.WaitGroup
	client := h1.pod("client")
	for _, w := range []struct {
		in   func(func() error) error
		addr string
	}{{client.in, "10.43.7.7:80"}, {client.in, "10.43.7.8:80"}, {client.in, "192.168.50.2:30080"}, {h2.pod("client").in, "10.43.7.7:80"}, {c.outside.Do, "192.168.50.1:30080"}} {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := get(w.in, w.addr); err != nil {
					failed.Add(1)
					t.Errorf("%s: %v", w.addr, err)
				}
				done.Add(1)
			}
		})
	}
	for round := range 300 {
		i := round % 6
		roll(pods[i : i+1+round%3])
		time.Sleep(time.Millisecond)
	}
	close(stop)
	wg.Wait()
	t.Logf("%d connections, %d failed", done.Load(), failed.Load())
	if done.Load() < 100 {
		t.Errorf("only %d connections were made", done.Load())
	}
}

func (p *testPod) Name() string { return string(p.uid) }
