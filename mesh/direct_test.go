package mesh

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// TestDirectRoutes: hosts on one link need no tunnel, one behind a router does, and one that moves is followed.
func TestDirectRoutes(t *testing.T) {
	c := newCluster(t, 3)
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	at := map[string]netip.Addr{h1.Name: h1.ip(), h2.Name: h2.ip(), h3.Name: netip.MustParseAddr("192.168.60.3")}
	c.outside.Run("ip", "address", "add", "192.168.60.254/24", "dev", "eth0")
	c.outside.Sysctl("net/ipv4/ip_forward", "1")
	h3.NS.Run("ip", "route", "del", "default")
	h3.NS.Run("ip", "address", "del", "192.168.50.3/24", "dev", "eth0")
	h3.NS.Run("ip", "address", "add", "192.168.60.3/24", "dev", "eth0")
	h3.NS.Run("ip", "route", "add", "default", "via", "192.168.60.254")
	known, nps := true, []*networkingv1.NetworkPolicy{}
	c.policies(&known, &nps, map[string][]*corev1.Pod{h2.Name: {labelledPod(h2, "b", "web")}})
	policies := c.change
	c.change = func(cfg *Config) {
		policies(cfg)
		cfg.DirectRoutes, cfg.NodeIP = true, at[cfg.Node]
		for i := range cfg.Peers {
			cfg.Peers[i].IP = at[cfg.Peers[i].Node]
		}
	}
	c.services = []*corev1.Service{newService("web", "10.43.7.7", corev1.ServicePort{Port: 80, NodePort: 30080})}
	c.set()
	a, b, d := h1.pod("a"), h2.pod("b"), h3.pod("d")
	for _, p := range []*testPod{a, b, d} {
		serve(t, p.in, ":8080", p.Name())
	}
	c.slices = []*discoveryv1.EndpointSlice{newSlice("web", 8080, b)}
	c.set()
	route := func(want string) {
		t.Helper()
		if got := h1.NS.Run("ip", "route", "show", "10.42.2.0/24"); !strings.Contains(got, want) || strings.Count(got, "\n") != 1 {
			t.Errorf("the route to host 2: %s, want one with %s", got, want)
		}
	}
	route("via 192.168.50.2 dev eth0")
	full := func() {
		t.Helper()
		a.Run("ping", "-c1", "-W2", "-M", "do", "-s", "1472", b.IP.String()) // 1500: the link's own
	}
	full()
	for _, to := range []*testPod{b, d} {
		if _, from := mustGet(t, a.in, to.IP.String()+":8080"); from != a.IP.String() {
			t.Errorf("%s sees %s, not the pod's own address %s", to.uid, from, a.IP)
		}
		mustGet(t, h1.Do, to.IP.String()+":8080")
	}
	if got := h1.NS.Run("ip", "route", "show", "10.42.3.0/24"); !strings.Contains(got, "dev vx-") {
		t.Errorf("a host behind a router is not reached through the tunnel: %s", got)
	}
	// What is too large for the tunnel the pod is told of by its own host.
	if out, err := a.Try("ping", "-c2", "-W1", "-M", "do", "-s", "1472", d.IP.String()); err == nil || !strings.Contains(out, "1450") {
		t.Errorf("a packet larger than the tunnel's MTU: %v\n%s", err, out)
	}
	for name, in := range map[string]func(func() error) error{"pod a": a.in, "pod d": d.in, "host 1": h1.Do, "outside": c.outside.Do} {
		for _, addr := range []string{"192.168.50.1:30080", "192.168.50.2:30080"} {
			if _, err := get(in, addr); err != nil {
				t.Errorf("%s to %s: %v", name, addr, err)
			}
		}
	}
	nps = append(nps, isolating("deny", "", networkingv1.PolicyTypeIngress))
	b.host.Must(func() error { return b.host.Mesh.Detach(t.Context(), b.uid) })
	b = h2.pod("b")
	if !dropped(a.in, b.IP.String()+":8080") {
		t.Error("the policy does not hold for what comes by a direct route")
	}
	nps = nil
	c.set()

	h2.NS.Run("ip", "address", "del", "192.168.50.2/24", "dev", "eth0")
	h2.NS.Run("ip", "address", "add", "192.168.50.22/24", "dev", "eth0")
	h2.NS.Run("ip", "route", "replace", "default", "via", "192.168.50.254")
	at[h2.Name] = netip.MustParseAddr("192.168.50.22")
	c.set()
	route("via 192.168.50.22 dev eth0")
	full()

	direct := c.change
	c.change = func(cfg *Config) { direct(cfg); cfg.DirectRoutes = false }
	c.set()
	route("dev vx-")
	a.Run("ping", "-c1", "-W2", b.IP.String())
	c.change = direct
	c.set()
	route("via 192.168.50.22 dev eth0")
}

// TestALinkThatWasDown: the kernel takes the routes of a link that goes down. They are back soon after the link.
func TestALinkThatWasDown(t *testing.T) {
	c := newCluster(t, 2)
	h1, h2 := c.hosts[0], c.hosts[1]
	c.change = func(cfg *Config) { cfg.DirectRoutes = true }
	c.set()
	a, b := h1.pod("a"), h2.pod("b")
	a.Run("ping", "-c1", "-W2", b.IP.String())
	for _, cmd := range [][]string{
		{"ip link set eth0 down", "ip link set eth0 up"},
		{"ip address flush dev eth0", "ip address add 192.168.50.1/24 dev eth0"},
		{"ip address flush dev eth0", "ip address add 192.168.50.1/24 dev eth0 noprefixroute", "ip route add 192.168.50.0/24 dev eth0 proto dhcp scope link src 192.168.50.1"}, // as dhcpcd does
	} {
		for _, line := range cmd {
			args := strings.Fields(line)
			h1.NS.Run(args[0], args[1:]...)
			c.set() // what is asked for meanwhile does not fail: there is the tunnel
			time.Sleep(100 * time.Millisecond)
		}
		begun := time.Now()
		for {
			if _, err := a.Try("ping", "-c1", "-W1", b.IP.String()); err == nil {
				break
			}
			if time.Since(begun) > 5*time.Second {
				t.Fatalf("after %q no way leads to the other host's pods:\n%s", cmd, h1.NS.Run("ip", "route"))
			}
		}
		t.Logf("after %q pods reached each other in %v", cmd, time.Since(begun).Round(10*time.Millisecond))
	}
}
