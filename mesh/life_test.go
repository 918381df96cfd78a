package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/mesh/internal/nstest"
	"bramble.dev/mesh/nft/nfttest"
)

// snapshot is all that a mesh could leave on a host, as text.
func snapshot(n *nstest.NS) string {
	var b strings.Builder
	for _, cmd := range [][]string{
		{"ip", "-o", "link"}, {"ip", "-o", "addr"}, {"ip", "route", "show", "table", "all"}, {"ip", "rule"},
		{"nft", "list", "ruleset"}, {"bridge", "fdb"},
	} {
		lines := strings.Split(n.Run(cmd[0], cmd[1:]...), "\n")
		lines = slices.DeleteFunc(lines, func(l string) bool { // addresses learned by a bridge
			return cmd[0] == "bridge" && !strings.Contains(l, "permanent")
		})
		slices.Sort(lines) // the kernel's order is not the same after a reload
		b.WriteString(strings.Join(cmd, " ") + "\n" + strings.Join(lines, "\n") + "\n")
	}
	return b.String()
}

func TestTeardownLeavesNothing(t *testing.T) {
	c := newCluster(t, 2)
	h := c.hosts[0]
	h.Run("nft", "add", "table", "inet", "somebody-else")
	h.Run("ip", "link", "add", "br-0", "type", "bridge")
	before := snapshot(h.NS)
	c.services = []*corev1.Service{newService("web", "10.43.7.7", corev1.ServicePort{Port: 80, NodePort: 30080})}
	c.set()
	for i := range 3 {
		h.pod(fmt.Sprint(i))
	}
	if after := snapshot(h.NS); !strings.Contains(after, "bramble-000001") || !strings.Contains(after, "ve000001") {
		t.Fatalf("the mesh is not there:\n%s", after)
	}
	// A process that never had a configuration does it, twice.
	h.Must(h.Mesh.Close)
	h.open()
	for range 2 {
		h.Must(func() error { return h.Teardown(context.Background()) })
		if after := snapshot(h.NS); after != before {
			t.Errorf("changed:\n%s", nfttest.Differences(after, before))
		}
	}
	for _, dir := range []string{"netns", "ipam/leases"} {
		if left, _ := os.ReadDir(filepath.Join(h.opts.Dir, dir)); len(left) > 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
	// And it can be set up again.
	c.set()
	h.pod("again").Run("ping", "-c1", "-W2", "10.42.1.1")
}

// TestAPodThatIsGone: who connects to its address is told within the 3 seconds in which nobody answers for it, on its host and on
// others, though both had just talked with it.
func TestAPodThatIsGone(t *testing.T) {
	c := newCluster(t, 2)
	c.set()
	h := c.hosts[0]
	gone, here, there := h.pod("gone"), h.pod("here"), c.hosts[1].pod("there")
	serve(t, gone.in, ":8080", "gone")
	for _, p := range []*testPod{here, there} {
		mustGet(t, p.in, gone.IP.String()+":8080")
	}
	h.Must(func() error { return h.Mesh.Detach(context.Background(), gone.uid) })
	for name, p := range map[string]*testPod{"on its host": here, "elsewhere": there} {
		err := p.in(func() error {
			conn, err := net.DialTimeout("tcp4", gone.IP.String()+":8080", 8*time.Second)
			if err == nil {
				conn.Close()
			}
			return err
		})
		if !errors.Is(err, unix.EHOSTUNREACH) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAgentRestart: connections of pods go on while the agent is away and after it is back.
func TestAgentRestart(t *testing.T) {
	c := newCluster(t, 2)
	c.set()
	h := c.hosts[0]
	a, b := h.pod("a"), c.hosts[1].pod("b")
	serve(t, b.in, ":8080", "b")
	c.services = []*corev1.Service{newService("web", "10.43.7.7", corev1.ServicePort{Port: 80})}
	c.slices = []*discoveryv1.EndpointSlice{newSlice("web", 8080, b)}
	c.set()
	var l net.Listener
	if err := b.in(func() (err error) { l, err = net.Listen("tcp4", ":9090"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var conn, peer net.Conn
	if err := a.in(func() (err error) { conn, err = net.Dial("tcp4", b.IP.String()+":9090"); return err }); err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	alive := func(when string) {
		t.Helper()
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		peer.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, err := peer.Read(make([]byte, 1)); err != nil {
			t.Fatalf("%s: the connection is dead: %v", when, err)
		}
		mustGet(t, a.in, "10.43.7.7:80")
	}
	before := snapshot(h.NS)
	h.Must(func() error { h.Mesh.Close(); return nil })
	alive("without an agent")
	h.open()
	alive("before the first Set")
	if _, err := h.Mesh.Attach(context.Background(), PodNetwork{UID: "new"}); err == nil {
		t.Error("a pod was attached before the node has a subnet")
	}
	start := time.Now()
	c.set()
	t.Logf("first Set of two hosts after a restart: %v", time.Since(start))
	alive("after the first Set")
	again := h.pod("a")
	if again.Attachment != a.Attachment {
		t.Errorf("attached again: %v, before: %v", again.Attachment, a.Attachment)
	}
	alive("after it was attached again")
	if after := snapshot(h.NS); after != before {
		t.Errorf("changed:\n%s", nfttest.Differences(after, before))
	}
	// A later pod gets another address.
	if p := h.pod("later"); p.IP == a.IP {
		t.Errorf("%v was given twice", p.IP)
	}
}

// TestReboot: nothing is left in the kernel, and the pod's address is the same.
func TestReboot(t *testing.T) {
	c := newCluster(t, 1)
	c.set()
	h := c.hosts[0]
	a := h.pod("a")
	h.Must(func() error { h.Mesh.Close(); return nil })
	for _, cmd := range []string{"link del br-000001", "link del ve0000012"} {
		h.Run("ip", strings.Fields(cmd)...)
	}
	h.Run("nft", "flush", "ruleset")
	if err := unix.Unmount(a.NetNS, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	h.open()
	c.set()
	if p := h.pod("a"); p.IP != a.IP {
		t.Errorf("the pod had %v, now %v", a.IP, p.IP)
	}
	a.Run("ping", "-c1", "-W2", "10.42.1.1")
}

// TestInterruptedAttach: whatever step was the last one, the next Attach completes it.
func TestInterruptedAttach(t *testing.T) {
	c := newCluster(t, 1)
	c.set()
	h := c.hosts[0]
	for name, damage := range map[string]func(p *testPod){
		"nothing":           func(p *testPod) {},
		"no link":           func(p *testPod) { p.Run("ip", "link", "del", "eth0") },
		"down":              func(p *testPod) { p.Run("ip", "link", "set", "eth0", "down") },
		"no address":        func(p *testPod) { p.Run("ip", "addr", "flush", "dev", "eth0") },
		"no routes":         func(p *testPod) { p.Run("ip", "route", "flush", "table", "main") },
		"host's end down":   func(p *testPod) { h.Run("ip", "link", "set", veth(p), "down") },
		"not on the bridge": func(p *testPod) { h.Run("ip", "link", "set", veth(p), "nomaster") },
		"no namespace": func(p *testPod) {
			if err := unix.Unmount(p.NetNS, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := h.pod("p")
			damage(p)
			q := h.pod("p")
			if p.Attachment != q.Attachment {
				t.Errorf("got %v, had %v", q.Attachment, p.Attachment)
			}
			q.Run("ping", "-c1", "-W2", "10.42.1.1")
			h.Run("ping", "-c1", "-W2", q.IP.String())
		})
	}
}

func veth(p *testPod) string {
	return fmt.Sprintf("ve%s%d", p.host.opts.Instance, p.IP.As4()[3])
}

func TestSweep(t *testing.T) {
	c := newCluster(t, 1)
	c.set()
	h := c.hosts[0]
	a, b := h.pod("a", HostPort{HostPort: 8081, Port: 80}), h.pod("b", HostPort{HostPort: 8082, Port: 80})
	// What a crash between two steps leaves: a namespace without a lease, a link without either.
	h.Run("ip", "link", "add", "ve00000177", "type", "veth", "peer", "name", "x")
	h.Run("ip", "link", "add", "ve00000277", "type", "veth", "peer", "name", "y") // another instance's
	stray := filepath.Join(h.opts.Dir, "netns", "stray")
	if err := os.WriteFile(stray, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.Must(func() error { return h.Mesh.Sweep(context.Background(), []types.UID{a.uid}) })
	links := h.Run("ip", "-o", "link")
	for name, want := range map[string]bool{veth(a): true, veth(b): false, "ve00000177": false, "ve00000277": true} {
		if strings.Contains(links, name+"@") != want {
			t.Errorf("%s is there: %v, want %v", name, !want, want)
		}
	}
	left, _ := os.ReadDir(filepath.Join(h.opts.Dir, "netns"))
	if len(left) != 1 || left[0].Name() != string(a.uid) {
		t.Errorf("namespaces: %v", left)
	}
	if rules := h.Run("nft", "list", "ruleset"); !strings.Contains(rules, "8081") || strings.Contains(rules, "8082") {
		t.Errorf("host ports:\n%s", rules)
	}
	a.Run("ping", "-c1", "-W2", "10.42.1.1")
	for range 2 {
		h.Must(func() error { return h.Mesh.Detach(context.Background(), a.uid) })
		h.Must(func() error { return h.Mesh.Detach(context.Background(), "nobody") })
	}
}

// TestAnotherSubnet: a node that was joined anew.
func TestAnotherSubnet(t *testing.T) {
	c := newCluster(t, 1)
	c.set()
	h := c.hosts[0]
	h.pod("a")
	c.change = func(cfg *Config) { cfg.PodCIDR = netip.MustParsePrefix("10.42.200.0/24") }
	c.set()
	a := h.pod("a")
	if a.IP.String() != "10.42.200.2" {
		t.Errorf("the pod has %v", a.IP)
	}
	a.Run("ping", "-c1", "-W2", "10.42.200.1")
	if out := h.Run("ip", "-o", "addr", "show", "br-000001"); strings.Contains(out, "10.42.1.1/") {
		t.Errorf("the old address stayed:\n%s", out)
	}
}

// TestPeersMove: an address changes, and the next Set leads there.
func TestPeersMove(t *testing.T) {
	c := newCluster(t, 2)
	c.set()
	h1, h2 := c.hosts[0], c.hosts[1]
	a, b := h1.pod("a"), h2.pod("b")
	a.Run("ping", "-c1", "-W2", b.IP.String())
	h2.Run("ip", "addr", "del", "192.168.50.2/24", "dev", "eth0")
	h2.Run("ip", "addr", "add", "192.168.50.77/24", "dev", "eth0")
	c.change = func(cfg *Config) {
		at := netip.MustParseAddr("192.168.50.77")
		if cfg.Node == h2.Name {
			cfg.NodeIP = at
		}
		for i := range cfg.Peers {
			if cfg.Peers[i].Node == h2.Name {
				cfg.Peers[i].IP = at
			}
		}
	}
	c.set()
	a.Run("ping", "-c1", "-W2", b.IP.String())
	b.Run("ping", "-c1", "-W2", a.IP.String())
}

// TestOneNamespace: two agents of one cluster and one of another share a host's network.
func TestOneNamespace(t *testing.T) {
	ns := nstest.New(t, "host")
	ns.Run("ip", "addr", "add", "192.168.50.1/32", "dev", "lo")
	before := snapshot(ns)
	cfg := func(node, pods, cluster, svc string) Config {
		return Config{Node: node, NodeIP: netip.MustParseAddr("192.168.50.1"), PodCIDR: netip.MustParsePrefix(pods), ClusterCIDR: netip.MustParsePrefix(cluster),
			ServiceCIDR: netip.MustParsePrefix(svc), DNS: netip.MustParsePrefix(svc).Addr().Next(), VNI: 7}
	}
	one, two, other := cfg("n1", "10.42.1.0/24", "10.42.0.0/16", "10.43.0.0/16"), cfg("n2", "10.42.2.0/24", "10.42.0.0/16", "10.43.0.0/16"), cfg("n1", "10.52.1.0/24", "10.52.0.0/16", "10.53.0.0/16")
	one.Peers = []Peer{{Node: "n2", IP: two.NodeIP, PodCIDR: two.PodCIDR, MAC: address("000002", "vxlan")}}
	two.Peers = []Peer{{Node: "n1", IP: one.NodeIP, PodCIDR: one.PodCIDR, MAC: address("000001", "vxlan")}}
	c := &cluster{t: t}
	var hosts []*host
	for i := range 3 {
		h := &host{NS: ns, c: c, n: i + 1}
		h.opts = Options{Instance: fmt.Sprintf("00000%d", i+1), Dir: t.TempDir(), Logger: logger(t)}
		h.open()
		hosts = append(hosts, h)
	}
	set := func() {
		t.Helper()
		for i, cfg := range []Config{one, two, other} {
			hosts[i].Must(func() error { return hosts[i].Mesh.Set(context.Background(), cfg) })
		}
	}
	set()
	pods := []*testPod{hosts[0].pod("p0"), hosts[1].pod("p1"), hosts[2].pod("p2")}
	for i, p := range pods {
		p.uid = types.UID(fmt.Sprintf("host-p%d", i))
		serve(t, p.in, ":8080", fmt.Sprintf("p%d", i))
	}
	sl := func(pods ...*testPod) []*discoveryv1.EndpointSlice {
		return []*discoveryv1.EndpointSlice{newSlice("web", 8080, pods...)}
	}
	one.Services = []*corev1.Service{newService("web", "10.43.7.7", corev1.ServicePort{Port: 80, NodePort: 30080})}
	one.EndpointSlices = sl(pods[0], pods[1])
	two.Services, two.EndpointSlices = one.Services, one.EndpointSlices
	other.Services = []*corev1.Service{newService("web", "10.53.7.7", corev1.ServicePort{Port: 80, NodePort: 30081})}
	other.EndpointSlices = sl(pods[2])
	set()
	for _, netfilter := range []string{"1", "0"} {
		if _, err := os.Stat("/proc/sys/net/bridge"); err == nil {
			ns.Sysctl("net/bridge/bridge-nf-call-iptables", netfilter)
		}
		for _, tt := range []struct {
			in   func(func() error) error
			addr string
			want []string
		}{
			{pods[0].in, pods[1].IP.String() + ":8080", []string{"p1"}},
			{pods[0].in, "10.43.7.7:80", []string{"p0", "p1"}},
			{pods[1].in, "10.43.7.7:80", []string{"p0", "p1"}},
			{ns.Do, "10.43.7.7:80", []string{"p0", "p1"}},
			{ns.Do, "127.0.0.1:30080", []string{"p0", "p1"}},
			{pods[2].in, "10.53.7.7:80", []string{"p2"}},
			{ns.Do, "10.53.7.7:80", []string{"p2"}},
			{ns.Do, "192.168.50.1:30081", []string{"p2"}},
		} {
			var seen []string
			for range 20 {
				name, _ := mustGet(t, tt.in, tt.addr)
				if !slices.Contains(seen, name) {
					seen = append(seen, name)
				}
			}
			slices.Sort(seen)
			if !slices.Equal(seen, tt.want) {
				t.Errorf("%s: %v answered, want %v", tt.addr, seen, tt.want)
			}
		}
	}
	hosts[1].Must(func() error { return hosts[1].Teardown(context.Background()) })
	one.EndpointSlices = sl(pods[0])
	hosts[0].Must(func() error { return hosts[0].Mesh.Set(context.Background(), one) })
	mustGet(t, pods[0].in, "10.43.7.7:80")
	mustGet(t, pods[2].in, "10.53.7.7:80")
	for _, i := range []int{0, 2} {
		hosts[i].Must(func() error { return hosts[i].Teardown(context.Background()) })
	}
	if after := snapshot(ns); after != before {
		t.Errorf("changed:\n%s", nfttest.Differences(after, before))
	}
}

func TestConfigErrors(t *testing.T) {
	ns := nstest.New(t, "n")
	c := &cluster{t: t}
	h := &host{NS: ns, c: c, n: 1, opts: Options{Instance: "000001", Dir: t.TempDir()}}
	c.hosts = []*host{h}
	h.open()
	defer h.Close()
	for _, tt := range []struct {
		want   string
		change func(*Config)
	}{
		{"pod CIDR is missing", func(c *Config) { c.PodCIDR = netip.Prefix{} }},
		{"only IPv4", func(c *Config) { c.ClusterCIDR = netip.MustParsePrefix("2001:db8::/48") }},
		{"no room", func(c *Config) { c.PodCIDR = netip.MustParsePrefix("10.42.1.0/30") }},
		{"not part of the cluster CIDR", func(c *Config) { c.PodCIDR = netip.MustParsePrefix("10.99.1.0/24") }},
		{"overlap", func(c *Config) { c.ServiceCIDR = netip.MustParsePrefix("10.42.128.0/17") }},
		{"not an IPv4 address", func(c *Config) { c.NodeIP = netip.Addr{} }},
		{"24 bits", func(c *Config) { c.VNI = 1 << 24 }},
	} {
		cfg := c.config(h)
		tt.change(&cfg)
		err := h.Do(func() error { return h.Mesh.Set(context.Background(), cfg) })
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("want %q, got %v", tt.want, err)
		}
	}
	if out := ns.Run("ip", "-o", "link"); strings.Contains(out, "br-") {
		t.Errorf("something was made:\n%s", out)
	}
	for _, i := range []string{"", "xyz", "0000001", "ABCDEF"} {
		if _, err := Open(context.Background(), Options{Instance: i, Dir: t.TempDir()}); err == nil {
			t.Errorf("instance %q was taken", i)
		}
	}
}

// TestOthersAreUndone: what a hand or a daemon did to the mesh is put right without a Set.
func TestOthersAreUndone(t *testing.T) {
	c := newCluster(t, 2)
	h := c.hosts[0]
	h.Must(h.Mesh.Close)
	h.opts.recheck = 20 * time.Millisecond
	h.open()
	c.services = []*corev1.Service{newService("web", "10.43.7.7", corev1.ServicePort{Port: 80, NodePort: 30080})}
	c.set()
	h.pod("a")
	want := snapshot(h.NS)
	for _, cmd := range []string{
		"nft flush ruleset", "ip link set br-000001 down", "ip link del vx-000001", "ip addr flush dev br-000001",
		"ip route flush proto 178", "bridge fdb del " + address("000002", "vxlan").String() + " dev vx-000001",
	} {
		args := strings.Fields(cmd)
		h.Run(args[0], args[1:]...)
		end := time.Now().Add(10 * time.Second)
		for got := snapshot(h.NS); indexless(got) != indexless(want); got = snapshot(h.NS) {
			if time.Now().After(end) {
				t.Fatalf("after %s:\n%s", cmd, nfttest.Differences(indexless(got), indexless(want)))
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// indexless forgets the numbers of links: one that was made anew has another.
func indexless(s string) string {
	lines := strings.Split(regexp.MustCompile(`(?m)^\d+: `).ReplaceAllString(s, ""), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestNodeIP(t *testing.T) {
	ns := nstest.New(t, "n")
	ask := func(hint string) string {
		var got netip.Addr
		if err := ns.Do(func() (err error) { got, err = NodeIP(hint); return err }); err != nil {
			return err.Error()
		}
		return got.String()
	}
	if got := ask(""); !strings.Contains(got, "no link with an IPv4 address is up") {
		t.Errorf("without links: %s", got)
	}
	for i, name := range []string{"lan", "vpn"} {
		ns.Run("ip", "link", "add", name, "type", "veth", "peer", "name", name+"-peer")
		ns.Run("ip", "addr", "add", fmt.Sprintf("10.%d.0.5/24", i+1), "dev", name)
		ns.Run("ip", "link", "set", name+"-peer", "up")
		ns.Run("ip", "link", "set", name, "up")
	}
	if got := ask(""); got != "10.1.0.5" {
		t.Errorf("without a default route: %s", got)
	}
	ns.Run("ip", "route", "add", "default", "via", "10.1.0.1")
	for hint, want := range map[string]string{
		"": "10.1.0.5", "10.2.0.9": "10.2.0.5", "https://10.2.0.9:6443": "10.2.0.5", "mqtts://10.1.0.9:8883": "10.1.0.5", "10.2.0.9:6443": "10.2.0.5",
		"10.2.0.5": "10.2.0.5", "203.0.113.1": "10.1.0.5", "127.0.0.1": "10.1.0.5", "https://127.0.0.1:6443": "10.1.0.5", "no.such.host.invalid": "10.1.0.5", "0.0.0.0": "10.1.0.5",
	} {
		if got := ask(hint); got != want {
			t.Errorf("%q: %s, want %s", hint, got, want)
		}
	}
}

// TestSubnetInUse: what another instance, or the host's own network, lives in is refused, and nothing is set up.
func TestSubnetInUse(t *testing.T) {
	c := newCluster(t, 1)
	h := c.hosts[0]
	h.Run("ip", "link", "add", "br-other", "type", "bridge")
	h.Run("ip", "addr", "add", "10.42.1.1/24", "dev", "br-other")
	err := h.Do(func() error { return h.Mesh.Set(context.Background(), c.config(h)) })
	if err == nil || !strings.Contains(err.Error(), "10.42.1.0/24 is in use on this host: link br-other has 10.42.1.1/24") {
		t.Errorf("got %v", err)
	}
	if out, err := h.Try("ip", "link", "show", "dev", h.Mesh.bridge.Name); err == nil {
		t.Errorf("a bridge was made: %s", out)
	}
	h.Run("ip", "link", "delete", "br-other")
	c.set()
}
