package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"bramble.dev/mesh/internal/nstest"
)

// cluster is some hosts on a switch, each with a mesh of its own.
type cluster struct {
	t        testing.TB
	hosts    []*host
	outside  *nstest.NS // a machine on the switch that is no node, at 192.168.50.254
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
	change   func(*Config)
}

type host struct {
	*nstest.NS
	c    *cluster
	n    int
	opts Options
	*Mesh
}

func newCluster(t testing.TB, n int) *cluster {
	t.Helper()
	c := &cluster{t: t, outside: nstest.New(t, "outside")}
	links := map[*nstest.NS]string{c.outside: "192.168.50.254/24"}
	for i := 1; i <= n; i++ {
		h := &host{NS: nstest.New(t, fmt.Sprintf("host%d", i)), c: c, n: i}
		h.opts = Options{Instance: fmt.Sprintf("00000%d", i), Dir: t.TempDir(), Logger: logger(t)}
		c.hosts = append(c.hosts, h)
		links[h.NS] = fmt.Sprintf("192.168.50.%d/24", i)
	}
	nstest.Switch(t, links)
	for _, h := range c.hosts {
		h.NS.Run("ip", "route", "add", "default", "via", "192.168.50.254")
		h.open()
		t.Cleanup(func() {
			if err := h.Do(func() error { return h.Mesh.Teardown(context.Background()) }); err != nil {
				t.Errorf("teardown: %v", err)
			}
			h.Mesh.Close()
		})
	}
	return c
}

func logger(t testing.TB) *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return slog.New(slog.DiscardHandler)
}

func (h *host) open() {
	h.c.t.Helper()
	h.Must(func() (err error) {
		h.Mesh, err = Open(context.Background(), h.opts)
		return err
	})
}

func (h *host) ip() netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 50, byte(h.n)}) }

func (h *host) podCIDR() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, byte(h.n), 0}), 24)
}

func (c *cluster) config(h *host) Config {
	cfg := Config{
		Node: h.Name, NodeIP: h.ip(), PodCIDR: h.podCIDR(), ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"),
		VNI: 7, Services: c.services, EndpointSlices: c.slices, DNS: netip.MustParseAddr("10.43.0.10"),
	}
	for _, o := range c.hosts {
		cfg.Peers = append(cfg.Peers, Peer{Node: o.Name, IP: o.ip(), PodCIDR: o.podCIDR(), MAC: address(o.opts.Instance, "vxlan")})
	}
	if c.change != nil {
		c.change(&cfg)
	}
	return cfg
}

// set gives all hosts the present configuration.
func (c *cluster) set() {
	c.t.Helper()
	for _, h := range c.hosts {
		h.Must(func() error { return h.Mesh.Set(context.Background(), c.config(h)) })
	}
}

// testPod is an attached pod, as a namespace to run things in.
type testPod struct {
	t    testing.TB
	host *host
	Attachment
	uid types.UID
}

func (h *host) pod(name string, ports ...HostPort) *testPod {
	h.c.t.Helper()
	p := &testPod{t: h.c.t, host: h, uid: types.UID(h.Name + "-" + name)}
	h.Must(func() (err error) {
		p.Attachment, err = h.Mesh.Attach(context.Background(), PodNetwork{UID: p.uid, Namespace: "default", Name: name, HostPorts: ports})
		return err
	})
	return p
}

func (p *testPod) Try(name string, args ...string) (string, error) {
	return p.host.NS.Try("nsenter", append([]string{"--net=" + p.NetNS, name}, args...)...)
}

func (p *testPod) Run(name string, args ...string) string {
	p.t.Helper()
	out, err := p.Try(name, args...)
	if err != nil {
		p.t.Fatalf("pod %s: %s %s: %v\n%s", p.uid, name, strings.Join(args, " "), err, out)
	}
	return out
}

// in runs f on a thread of the pod's.
func (p *testPod) in(f func() error) error { return inNetNS(p.NetNS, f) }

// serve answers each connection with the server's name and the client's address.
func serve(t testing.TB, in func(func() error) error, addr, name string) {
	t.Helper()
	var l net.Listener
	if err := in(func() (err error) { l, err = net.Listen("tcp4", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%s %s", name, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
}

// get is what serve at addr says to a client in a namespace.
func get(in func(func() error) error, addr string) (string, error) {
	var c net.Conn
	if err := in(func() (err error) { c, err = net.DialTimeout("tcp4", addr, 2*time.Second); return err }); err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	b, err := io.ReadAll(c)
	return string(b), err
}

func mustGet(t testing.TB, in func(func() error) error, addr string) (name, from string) {
	t.Helper()
	s, err := get(in, addr)
	if err != nil {
		t.Fatalf("get %s: %v", addr, err)
	}
	name, from, _ = strings.Cut(s, " ")
	return name, from
}

func newService(name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	s := &corev1.Service{}
	s.Namespace, s.Name = "default", name
	s.Spec.ClusterIP, s.Spec.ClusterIPs = ip, []string{ip}
	s.Spec.Ports = ports
	return s
}

func newSlice(name string, port int32, pods ...*testPod) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	s.Namespace, s.Name = "default", name+"-abc"
	s.Labels = map[string]string{discoveryv1.LabelServiceName: name}
	empty, tcp := "", corev1.ProtocolTCP
	s.Ports = []discoveryv1.EndpointPort{{Name: &empty, Port: &port, Protocol: &tcp}}
	for _, p := range pods {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{p.IP.String()}, NodeName: &p.host.Name})
	}
	return s
}

func TestHosts(t *testing.T) {
	c := newCluster(t, 3)
	c.set()
	h1, h2, h3 := c.hosts[0], c.hosts[1], c.hosts[2]
	a, b, d := h1.pod("a"), h2.pod("b"), h1.pod("d")
	serve(t, a.in, ":8080", "a")
	serve(t, b.in, ":8080", "b")
	serve(t, d.in, ":8080", "d")
	t.Run("pod to pod", func(t *testing.T) {
		for _, to := range []*testPod{b, d} {
			a.Run("ping", "-c1", "-W2", to.IP.String())
			if _, from := mustGet(t, a.in, to.IP.String()+":8080"); from != a.IP.String() {
				t.Errorf("%s sees %s, not the pod's own address %s", to.uid, from, a.IP)
			}
		}
		b.Run("ping", "-c1", "-W2", "-M", "do", "-s", "1422", a.IP.String()) // a full packet: 1450
		if out, err := b.Try("ping", "-c1", "-W1", "-M", "do", "-s", "1423", a.IP.String()); err == nil {
			t.Errorf("a packet larger than the MTU went through:\n%s", out)
		}
	})
	t.Run("host to pod", func(t *testing.T) {
		for _, to := range []*testPod{a, b} {
			mustGet(t, h1.Do, to.IP.String()+":8080")
			mustGet(t, h3.Do, to.IP.String()+":8080")
		}
	})
	t.Run("nobody's address", func(t *testing.T) {
		for name, in := range map[string]func(func() error) error{"pod": a.in, "host": h1.Do} {
			if _, err := get(in, "10.42.99.9:80"); !errors.Is(err, unix.EHOSTUNREACH) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	c.services = []*corev1.Service{newService("web", "10.43.7.7", corev1.ServicePort{Port: 80, NodePort: 30080})}
	c.slices = []*discoveryv1.EndpointSlice{newSlice("web", 8080, a, b)}
	c.set()
	for _, netfilter := range []string{"1", "0"} {
		t.Run("bridge-nf="+netfilter, func(t *testing.T) {
			for _, h := range c.hosts {
				h.Sysctl("net/ipv4/conf/all/rp_filter", netfilter) // strict once, too
				if _, err := os.Stat("/proc/sys/net/bridge"); err == nil {
					h.Sysctl("net/bridge/bridge-nf-call-iptables", netfilter)
				}
			}
			for name, in := range map[string]func(func() error) error{"pod a": a.in, "pod b": b.in, "pod d": d.in, "host 1": h1.Do, "host 3": h3.Do} {
				for _, addr := range []string{"10.43.7.7:80", "192.168.50.1:30080", "192.168.50.2:30080", "192.168.50.3:30080"} {
					seen := map[string]bool{}
					for range 20 {
						s, err := get(in, addr)
						if err != nil {
							t.Fatalf("%s to %s: %v", name, addr, err)
						}
						seen[strings.Fields(s)[0]] = true
					}
					if !seen["a"] || !seen["b"] {
						t.Errorf("%s to %s: only %v answered", name, addr, seen)
					}
				}
			}
			for _, h := range c.hosts {
				for range 10 {
					mustGet(t, h.Do, "127.0.0.1:30080")
				}
			}
		})
	}
}
